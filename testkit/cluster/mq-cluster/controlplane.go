package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// controlPlane says where an API server and its companions run. It is the same on the host (loopback, free ports) and inside a
// node (the node's address, the usual ports).
type controlPlane struct {
	Root          string `json:"root"`
	Bin           string `json:"bin"`
	Bind          string `json:"bind"`    // the API server listens there
	Address       string `json:"address"` // and is reached there
	ServiceRange  string `json:"serviceRange"`
	Port          int    `json:"port"`
	EtcdPort      int    `json:"etcdPort"`
	EtcdPeerPort  int    `json:"etcdPeerPort"`
	ManagerPort   int    `json:"managerPort"`
	SchedulerPort int    `json:"schedulerPort"`
	HasNode       bool   `json:"hasNode"`

	controllers *server
}

func (c *controlPlane) url() string               { return fmt.Sprintf("https://%s:%d", c.Address, c.Port) }
func (c *controlPlane) pki(name string) string    { return filepath.Join(c.Root, "pki", name) }
func (c *controlPlane) conf(user string) string   { return filepath.Join(c.Root, user+".conf") }
func (c *controlPlane) etcdURL(port int) string   { return fmt.Sprintf("http://127.0.0.1:%d", port) }
func (c *controlPlane) auditLog() string          { return filepath.Join(c.Root, "audit.log") }
func (c *controlPlane) binary(name string) string { return filepath.Join(c.Bin, name) }

// prepare writes the certificates and the kubeconfigs of all users.
func (c *controlPlane) prepare(addresses ...string) error {
	authority, err := newPKI(filepath.Join(c.Root, "pki"), addresses...)
	if err != nil {
		return err
	}
	for _, user := range []string{"admin", "controller-manager", "scheduler", "kubelet", "proxy"} {
		if err := authority.kubeconfig(c.conf(user), c.url(), user); err != nil {
			return err
		}
	}
	return nil
}

// start returns once the API server serves; its controllers then still get going.
func (c *controlPlane) start(ctx context.Context, run starter) error {
	if _, err := run("etcd", c.etcd()); err != nil {
		return err
	}
	apiserver, err := run("kube-apiserver", c.apiserver())
	if err != nil {
		return err
	}
	api, err := newAPI(c)
	if err != nil {
		return err
	}
	if err := apiserver.ready(ctx, func(ctx context.Context) error { return api.get(ctx, "/readyz", nil) }); err != nil {
		return err
	}
	// Not earlier: the controller-manager ends at once while the built-in roles are missing.
	if c.controllers, err = run("kube-controller-manager", c.manager()); err != nil {
		return err
	}
	_, err = run("kube-scheduler", c.scheduler())
	return err
}

// settled returns once the first ServiceAccount exists, without which no pod may be created.
func (c *controlPlane) settled(ctx context.Context) error {
	api, err := newAPI(c)
	if err != nil {
		return err
	}
	return c.controllers.ready(ctx, func(ctx context.Context) error {
		return api.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
	})
}

func (c *controlPlane) etcd() []string {
	peers := c.etcdURL(c.EtcdPeerPort)
	return []string{c.binary("etcd"), "--name", "etcd", "--data-dir", filepath.Join(c.Root, "etcd"), "--log-level", "warn",
		"--listen-client-urls", c.etcdURL(c.EtcdPort), "--advertise-client-urls", c.etcdURL(c.EtcdPort),
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "etcd=" + peers,
		"--unsafe-no-fsync"} // nothing here has to survive a power cut
}

func (c *controlPlane) apiserver() []string {
	args := []string{c.binary("kube-apiserver"), "--etcd-servers", c.etcdURL(c.EtcdPort),
		"--secure-port", fmt.Sprint(c.Port), "--bind-address", c.Bind, "--advertise-address", c.Address,
		"--tls-cert-file", c.pki("apiserver.crt"), "--tls-private-key-file", c.pki("apiserver.key"),
		"--client-ca-file", c.pki("ca.crt"), "--anonymous-auth=false",
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", c.pki("sa.pub"), "--service-account-signing-key-file", c.pki("sa.key"),
		"--service-cluster-ip-range", c.ServiceRange, "--allow-privileged", "--profiling=false",
		// Beta and off in this version; what the operator offers with it has to be tested.
		"--feature-gates", "MutatingAdmissionPolicy=true", "--runtime-config", "admissionregistration.k8s.io/v1beta1=true"}
	if !c.HasNode {
		// Nobody reaches this API server through a Service, and a loopback address is no valid endpoint of one.
		return append(args, "--endpoint-reconciler-type", "none")
	}
	return append(args, "--kubelet-client-certificate", c.pki("apiserver-kubelet.crt"),
		"--kubelet-client-key", c.pki("apiserver-kubelet.key"), "--kubelet-certificate-authority", c.pki("ca.crt"),
		"--kubelet-preferred-address-types", "InternalIP",
		"--audit-policy-file", filepath.Join(c.Root, "audit.yaml"), "--audit-log-path", c.auditLog())
}

func (c *controlPlane) manager() []string {
	conf := c.conf("controller-manager")
	return []string{c.binary("kube-controller-manager"), "--kubeconfig", conf, "--authentication-kubeconfig", conf,
		"--authorization-kubeconfig", conf, "--use-service-account-credentials", "--leader-elect=false", "--profiling=false",
		"--service-account-private-key-file", c.pki("sa.key"), "--root-ca-file", c.pki("ca.crt"),
		"--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(c.ManagerPort)}
}

func (c *controlPlane) scheduler() []string {
	conf := c.conf("scheduler")
	return []string{c.binary("kube-scheduler"), "--kubeconfig", conf, "--authentication-kubeconfig", conf,
		"--authorization-kubeconfig", conf, "--leader-elect=false",
		"--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(c.SchedulerPort)}
}

// api asks the API server as administrator; it knows just what a start needs.
type api struct {
	url    string
	client http.Client
}

func newAPI(c *controlPlane) (*api, error) {
	cert, err := tls.LoadX509KeyPair(c.pki("admin.crt"), c.pki("admin.key"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(c.pki("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	config := &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots}
	return &api{c.url(), http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: 5 * time.Second}}, nil
}

// get decodes the answer if the caller wants it.
func (a *api) get(ctx context.Context, path string, into any) error {
	body, err := a.ask(ctx, http.MethodGet, path, "", http.StatusOK)
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// create takes the object as YAML.
func (a *api) create(ctx context.Context, path, object string) error {
	_, err := a.ask(ctx, http.MethodPost, path, object, http.StatusCreated)
	return err
}

// ask fails unless the answer has the wanted status.
func (a *api) ask(ctx context.Context, method, path, body string, wanted int) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, a.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/yaml")
	answer, err := a.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != wanted {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, text)
	}
	return text, nil
}
