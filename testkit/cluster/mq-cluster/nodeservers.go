package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	reportReady      = "ready"
	containerdSocket = "/run/containerd/containerd.sock"
)

// nodeServers starts all servers of a node from inside it, reports on file 3, and then only lives: its end is the node's.
func nodeServers(args []string) error {
	report := reportFile()
	n, err := readNode(args)
	if err == nil {
		err = n.startInside(context.Background())
	}
	if err == nil {
		err = serveControl(filepath.Join(n.Root, "node.sock"), func(_, action string) error {
			return n.Kafka.fault(context.Background(), action)
		})
	}
	if err != nil {
		fmt.Fprint(report, err)
		return err
	}
	fmt.Fprint(report, reportReady)
	report.Close()
	signal.Ignore(syscall.SIGHUP)
	select {}
}

func (n *node) startInside(ctx context.Context) error {
	return together(ctx, n.startCluster, func(ctx context.Context) error {
		if err := n.Kafka.prepare(ctx); err != nil {
			return err
		}
		return n.Kafka.start(ctx, n.run)
	})
}

func (n *node) startCluster(ctx context.Context) error {
	err := together(ctx, n.startContainers, func(ctx context.Context) error { return n.ControlPlane.start(ctx, n.run) })
	if err != nil {
		return err
	}
	kubelet, err := n.run("kubelet", []string{n.binary("kubelet"), "--config", n.path("kubelet.yaml"), "--root-dir", n.path("kubelet"),
		"--kubeconfig", n.ControlPlane.conf("kubelet"), "--hostname-override", "node", "--node-ip", n.Address})
	if err != nil {
		return err
	}
	if _, err := n.run("kube-proxy", []string{n.binary("kube-proxy"), "--config", n.path("proxy.yaml")}); err != nil {
		return err
	}
	dns, err := n.run("coredns", []string{n.binary("coredns"), "-conf", n.path("Corefile")})
	if err != nil {
		return err
	}
	return together(ctx, n.ControlPlane.settled, n.createDNS,
		func(ctx context.Context) error { return dns.ready(ctx, dnsReady) },
		func(ctx context.Context) error { return kubelet.ready(ctx, n.nodeReady) })
}

func (n *node) binary(name string) string { return filepath.Join(n.Bin, name) }

func (n *node) run(name string, args []string) (*server, error) {
	started := &server{name: name, args: args, dir: n.ControlPlane.Root}
	return started, started.start()
}

// startContainers starts containerd and fills it with the images.
func (n *node) startContainers(ctx context.Context) error {
	pause := n.path("pause.tar")
	if err := n.pauseImage(pause); err != nil {
		return err
	}
	containerd, err := n.run("containerd", []string{"containerd", "-c", n.path("containerd.toml")})
	if err != nil {
		return err
	}
	err = containerd.ready(ctx, func(ctx context.Context) error {
		connection, err := new(net.Dialer).DialContext(ctx, "unix", containerdSocket)
		if err == nil {
			connection.Close()
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, path := range append([]string{pause}, n.Images...) {
		load := exec.CommandContext(ctx, "ctr", "-a", containerdSocket, "-n", "k8s.io", "images", "import", path)
		if out, err := load.CombinedOutput(); err != nil {
			return fmt.Errorf("importing the image %s: %w: %s", path, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// createDNS leads the cluster's DNS Service to the process that runs beside the kubelet. Not by kubectl, which would leave its list
// of kinds in the user's home, where a later node of the same address finds it.
func (n *node) createDNS(ctx context.Context) error {
	api, err := newAPI(&n.ControlPlane)
	if err != nil {
		return err
	}
	objects, err := os.ReadFile(n.path("dns.yaml"))
	if err != nil {
		return err
	}
	service, endpoints, _ := strings.Cut(string(objects), "\n---\n")
	if err := api.create(ctx, "/api/v1/namespaces/kube-system/services", service); err != nil {
		return err
	}
	return api.create(ctx, "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", endpoints)
}

func dnsReady(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:8181/ready", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

func (n *node) nodeReady(ctx context.Context) error {
	api, err := newAPI(&n.ControlPlane)
	if err != nil {
		return err
	}
	var found struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := api.get(ctx, "/api/v1/nodes/node", &found); err != nil {
		return err
	}
	for _, condition := range found.Status.Conditions {
		if condition.Type == "Ready" {
			if condition.Status == "True" {
				return nil
			}
			return errors.New(condition.Message)
		}
	}
	return errors.New("the node has no condition Ready")
}
