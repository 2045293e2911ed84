package main

import (
	"fmt"
	"strings"
)

const (
	kafkaPeers   = 3
	portsPerPeer = 5
)

// kafkaPeer is a broker's place among several that keep copies of each other's data.
type kafkaPeer struct {
	ID          int
	Controllers []int // the controller ports of all, by id from 1 on
	LinkedPort  int   // the listener behind the link
	LinkPort    int   // what that listener advertises: a test that wants to cut the way listens there
}

// linkAccess is a way to the broker for clients whose network a test cuts.
type linkAccess struct {
	Broker string `json:"broker"` // where the broker listens
	Link   string `json:"link"`   // where its clients believe it to be
}

func newKafkaPeers(inst *instance, home string, ports []int) []*kafka {
	const address = "127.0.0.1"
	var peers []*kafka
	var controllers []int
	for id := 1; id <= kafkaPeers; id++ {
		own := ports[(id-1)*portsPerPeer:]
		controllers = append(controllers, own[1])
		peer := &kafkaPeer{ID: id, LinkedPort: own[3], LinkPort: own[4]}
		peers = append(peers, &kafka{Root: inst.path(peer.name()), Home: home, Bind: address, Address: address,
			Port: own[0], ControllerPort: own[1], MetricsPort: own[2], Peer: peer})
	}
	for _, peer := range peers {
		peer.Peer.Controllers = controllers
	}
	return peers
}

func (p *kafkaPeer) name() string   { return fmt.Sprintf("%s-%d", hostBroker, p.ID) }
func (p *kafkaPeer) linked() string { return fmt.Sprintf("127.0.0.1:%d", p.LinkedPort) }
func (p *kafkaPeer) link() string   { return fmt.Sprintf("127.0.0.1:%d", p.LinkPort) }

func (k *kafka) ID() int {
	if k.Peer != nil {
		return k.Peer.ID
	}
	return 1
}

// Voters are all controllers.
func (k *kafka) Voters() string {
	if k.Peer == nil {
		return fmt.Sprintf("1@127.0.0.1:%d", k.ControllerPort)
	}
	var voters []string
	for index, port := range k.Peer.Controllers {
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", index+1, port))
	}
	return strings.Join(voters, ",")
}

// Copies are how many replicas Kafka's own topics have. A single broker cannot keep copies.
func (k *kafka) Copies() int {
	if k.Peer != nil {
		return kafkaPeers
	}
	return 1
}

// Written is how many replicas must have what counts as written: all but one, if there are several.
func (k *kafka) Written() int { return max(1, k.Copies()-1) }

// The listener behind the link, as the template needs it.
func (p *kafkaPeer) Listener() string   { return "LINKED://" + p.linked() }
func (p *kafkaPeer) Advertised() string { return "LINKED://" + p.link() }
