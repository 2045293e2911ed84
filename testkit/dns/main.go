// coredns is the cluster DNS of a test node: CoreDNS with the few plugins that its Corefile names. It is a module of its
// own because it wants newer Kubernetes libraries than the cluster it serves.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() {
	dnsserver.Directives = []string{"reload", "ready", "errors", "cache", "hosts", "kubernetes"}
	coremain.Run()
}
