package main

import (
	"errors"
	"fmt"
	"net"
)

// Ports of servers on the host come from below the range that the kernel gives to outgoing connections.
const (
	firstPort     = 20000
	portsPerRange = 100
)

// ports are loopback ports of one run. The first of its range is listened on for as long as the run lives: runs with folders of their own
// know nothing of each other, and may begin at the same moment.
type ports struct {
	guard net.Listener
	free  []int
}

// reservePorts takes a range that no other run has, and in it ports that nobody listens on. It begins with the range of the instance.
func reservePorts(instance, count int) (*ports, error) {
	for n := range instances {
		first := firstPort + (instance+n)%instances*portsPerRange
		guard, err := listen(first)
		if err != nil {
			continue
		}
		reserved := &ports{guard: guard}
		for port := first + 1; port < first+portsPerRange && len(reserved.free) < count; port++ {
			if listener, err := listen(port); err == nil {
				listener.Close()
				reserved.free = append(reserved.free, port)
			}
		}
		if len(reserved.free) == count {
			return reserved, nil
		}
		guard.Close()
	}
	return nil, errors.New("no range of ports is free on 127.0.0.1: end other runs")
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
}
