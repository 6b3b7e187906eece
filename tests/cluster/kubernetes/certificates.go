package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// identity is a key, its certificate, and both as text.
type identity struct {
	key                    *ecdsa.PrivateKey
	certificate            *x509.Certificate
	keyPEM, certificatePEM []byte
}

// certificates DIRECTORY ADDRESSES NODES writes an authority, one serving certificate for all addresses (a list with
// commas; the first is the API server's), the key of the service accounts, and a kubeconfig for the administrator, for
// the parts of the control plane and for each node.
func certificates(arguments []string) error {
	if len(arguments) != 3 {
		return errors.New("usage: certificates DIRECTORY ADDRESS,… NODE,…")
	}
	directory, nodes := arguments[0], strings.Split(arguments[2], ",")
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	authority, err := issue(directory, "authority", nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "cluster of the tests"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign})
	if err != nil {
		return err
	}
	serving := &x509.Certificate{Subject: pkix.Name{CommonName: "server"},
		DNSNames:    append([]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}, nodes...),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	addresses := strings.Split(arguments[1], ",")
	for _, address := range addresses {
		serving.IPAddresses = append(serving.IPAddresses, net.ParseIP(address))
	}
	if _, err := issue(directory, "server", authority, serving); err != nil {
		return err
	}
	if _, err := issue(directory, "service-accounts", nil, &x509.Certificate{Subject: pkix.Name{CommonName: "tokens"}}); err != nil {
		return err
	}
	clients := map[string]pkix.Name{
		"admin":          {CommonName: "admin", Organization: []string{"system:masters"}},
		"apiserver":      {CommonName: "apiserver", Organization: []string{"system:masters"}},
		"kube-scheduler": {CommonName: "system:kube-scheduler"},
		"kube-proxy":     {CommonName: "system:kube-proxy"},
	}
	for _, node := range nodes {
		clients[node] = pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}
	}
	for name, subject := range clients {
		client, err := issue(directory, name, authority, &x509.Certificate{Subject: subject,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if err != nil {
			return err
		}
		text := fmt.Sprintf(kubeconfig, addresses[0], base64.StdEncoding.EncodeToString(authority.certificatePEM),
			base64.StdEncoding.EncodeToString(client.certificatePEM), base64.StdEncoding.EncodeToString(client.keyPEM))
		if err := os.WriteFile(filepath.Join(directory, name+".kubeconfig"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: tests, cluster: {server: "https://%s:6443", certificate-authority-data: %s}}]
users: [{name: tests, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: tests, context: {cluster: tests, user: tests}}]
current-context: tests
`

// issue makes a key and its certificate, signed by itself where there is no authority, and writes NAME.key and NAME.crt.
func issue(directory, name string, authority *identity, template *x509.Certificate) (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100)); err != nil {
		return nil, err
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	template.KeyUsage |= x509.KeyUsageDigitalSignature
	parent, signer := template, key
	if authority != nil {
		parent, signer = authority.certificate, authority.key
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(signed)
	if err != nil {
		return nil, err
	}
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	made := &identity{key: key, certificate: certificate,
		keyPEM:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: plain}),
		certificatePEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})}
	if err := os.WriteFile(filepath.Join(directory, name+".key"), made.keyPEM, 0o600); err != nil {
		return nil, err
	}
	return made, os.WriteFile(filepath.Join(directory, name+".crt"), made.certificatePEM, 0o644)
}
