package main

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// secureListeners are the broker's ways in with TLS or SASL. Its certificate names 127.0.0.1 and localhost.
type secureListeners struct {
	Folder                        string
	Address                       string
	TLS, MutualTLS, SASL, SASLTLS int // ports; MutualTLS demands a client's certificate
}

// saslUser is known to every SASL listener, with every mechanism.
type saslUser struct {
	Name     string `json:"username"`
	Password string `json:"password"`
}

// secureAccess is what tests read. The folder holds ca.{crt,key} and the certificates client and client-2.
type secureAccess struct {
	Folder        string     `json:"folder"`
	SSL           string     `json:"ssl"`
	MutualTLS     string     `json:"mutualTls"`
	SASLPlaintext string     `json:"saslPlaintext"`
	SASLSSL       string     `json:"saslSsl"`
	Users         []saslUser `json:"users"`
}

func (s *secureListeners) access() *secureAccess {
	at := func(port int) string { return fmt.Sprintf("%s:%d", s.Address, port) }
	return &secureAccess{s.Folder, at(s.TLS), at(s.MutualTLS), at(s.SASL), at(s.SASLTLS), s.Users()}
}

// prepare writes the authority, the broker's certificate and those of two clients.
func (s *secureListeners) prepare() error {
	if err := os.MkdirAll(s.Folder, 0o700); err != nil {
		return err
	}
	authority := &pki{folder: s.Folder}
	server := func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.ParseIP(s.Address)}
	}
	client := x509.ExtKeyUsageClientAuth
	for _, err := range []error{
		authority.issue("ca", pkix.Name{CommonName: "mq-test-kafka-ca"}, 0),
		authority.issue("broker", pkix.Name{CommonName: "broker"}, x509.ExtKeyUsageServerAuth, server),
		authority.issue("client", pkix.Name{CommonName: "client"}, client),
		authority.issue("client-2", pkix.Name{CommonName: "client-2"}, client),
	} {
		if err != nil {
			return fmt.Errorf("making the broker's certificates in %s: %w", s.Folder, err)
		}
	}
	var keystore bytes.Buffer
	for _, file := range []string{"broker.key", "broker.crt"} {
		text, err := os.ReadFile(authority.path(file))
		if err != nil {
			return err
		}
		keystore.Write(text)
	}
	return os.WriteFile(s.Keystore(), keystore.Bytes(), 0o600)
}

func (s *secureListeners) Keystore() string   { return filepath.Join(s.Folder, "broker.pem") }
func (s *secureListeners) Truststore() string { return filepath.Join(s.Folder, "ca.crt") }

func (s *secureListeners) Listeners() string {
	a := s.access()
	return fmt.Sprintf("SSL://%s,MUTUAL://%s,SASL_PLAINTEXT://%s,SASL_SSL://%s", a.SSL, a.MutualTLS, a.SASLPlaintext, a.SASLSSL)
}

func (s *secureListeners) SASLListeners() []string { return []string{"sasl_plaintext", "sasl_ssl"} }

func (s *secureListeners) Users() []saslUser {
	return []saslUser{{"alice", "alice-secret"}, {"bob", "bob-secret"}}
}

// users are the options that add them to the data folder while it is formatted: PLAIN reads them from the configuration.
func (s *secureListeners) users() (options []string) {
	if s == nil {
		return nil
	}
	for _, user := range s.Users() {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			options = append(options, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, user.Name, user.Password))
		}
	}
	return options
}
