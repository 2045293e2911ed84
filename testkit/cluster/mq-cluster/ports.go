package main

import (
	"fmt"
	"net"
)

// Ports of servers on the host come from below the range that the kernel gives to outgoing connections.
const (
	firstPort        = 20000
	portsPerInstance = 100
)

// freePorts returns loopback ports of this instance that nobody listens on.
func freePorts(instance, count int) ([]int, error) {
	var found []int
	first := firstPort + instance*portsPerInstance
	for port := first; port < first+portsPerInstance && len(found) < count; port++ {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		listener.Close()
		found = append(found, port)
	}
	if len(found) < count {
		return nil, fmt.Errorf("fewer than %d free ports between %d and %d", count, first, first+portsPerInstance)
	}
	return found, nil
}
