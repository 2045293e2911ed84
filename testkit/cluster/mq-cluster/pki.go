package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// pki is one certificate authority that signs everything of an instance, as files in one folder.
type pki struct {
	folder string
	key    crypto.Signer
	cert   *x509.Certificate
	serial int64
}

const validity = 30 * 24 * time.Hour // longer than any instance lives

// newPKI writes the authority, the certificates of all components and the key pair of ServiceAccount tokens. The API server
// and the kubelet answer to the addresses.
func newPKI(folder string, addresses ...string) (*pki, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	authority := &pki{folder: folder}
	if err := authority.issue("ca", pkix.Name{CommonName: "mq-test-ca"}, 0); err != nil {
		return nil, err
	}
	ips := []net.IP{net.IPv4(127, 0, 0, 1)}
	for _, address := range addresses {
		ips = append(ips, net.ParseIP(address))
	}
	names := []string{"localhost", "node", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}
	serverCert := func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = names, ips }
	server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	for _, err := range []error{
		authority.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, server, serverCert),
		authority.issue("kubelet-server", pkix.Name{CommonName: "node"}, server, serverCert),
		authority.issue("admin", pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, client),
		authority.issue("controller-manager", pkix.Name{CommonName: "system:kube-controller-manager"}, client),
		authority.issue("scheduler", pkix.Name{CommonName: "system:kube-scheduler"}, client),
		authority.issue("kubelet", pkix.Name{CommonName: "system:node:node", Organization: []string{"system:nodes"}}, client),
		authority.issue("proxy", pkix.Name{CommonName: "system:kube-proxy"}, client),
		authority.issue("apiserver-kubelet", pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}}, client),
		authority.serviceAccountKeys(),
	} {
		if err != nil {
			return nil, fmt.Errorf("making the certificates in %s: %w", folder, err)
		}
	}
	return authority, nil
}

func (p *pki) path(name string) string { return filepath.Join(p.folder, name) }

// issue writes NAME.key and NAME.crt. The first certificate is the authority itself.
func (p *pki) issue(name string, subject pkix.Name, usage x509.ExtKeyUsage, adjust ...func(*x509.Certificate)) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	p.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(p.serial), Subject: subject,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validity),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	if p.key == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageCertSign, nil
		p.key, p.cert = key, template
	}
	for _, change := range adjust {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, key.Public(), p.key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key) // the only form that Kafka reads
	if err != nil {
		return err
	}
	if err := writePEM(p.path(name+".key"), "PRIVATE KEY", private); err != nil {
		return err
	}
	return writePEM(p.path(name+".crt"), "CERTIFICATE", der)
}

func (p *pki) serviceAccountKeys() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := writePEM(p.path("sa.key"), "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)); err != nil {
		return err
	}
	return writePEM(p.path("sa.pub"), "PUBLIC KEY", public)
}

// kubeconfig writes the way in of one user.
func (p *pki) kubeconfig(path, server, user string) error {
	var encoded []any
	for _, file := range []string{"ca.crt", user + ".crt", user + ".key"} {
		text, err := os.ReadFile(p.path(file))
		if err != nil {
			return err
		}
		encoded = append(encoded, base64.StdEncoding.EncodeToString(text))
	}
	const text = `apiVersion: v1
kind: Config
clusters: [{name: mq, cluster: {server: "%s", certificate-authority-data: %s}}]
users: [{name: user, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: mq, context: {cluster: mq, user: user}}]
current-context: mq
`
	return os.WriteFile(path, fmt.Appendf(nil, text, append([]any{server}, encoded...)...), 0o600)
}

func writePEM(path, kind string, der []byte) error {
	var text bytes.Buffer
	if err := pem.Encode(&text, &pem.Block{Type: kind, Bytes: der}); err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o600)
}
