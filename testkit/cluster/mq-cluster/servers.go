package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// starter starts a named server of the instance.
type starter func(name string, args []string) (*server, error)

// servers are all that a run started on this machine.
type servers struct {
	inst        *instance
	description string // path
	ports       *ports

	mutex   sync.Mutex
	running []*server
	broker  *kafka
	peers   []*kafka
	node    *node
}

// startServers starts what was asked for, side by side, and returns when all of it serves. When it fails nothing is left.
func startServers(ctx context.Context, o *options) (*servers, error) {
	begin := time.Now()
	bin, err := binFolder()
	if err != nil {
		return nil, err
	}
	inst, err := newInstance(o.keep)
	if err != nil {
		return nil, err
	}
	s := &servers{inst: inst, description: inst.path("testkit.json")}
	say("starting %s in %s", o, inst.root)
	if err := s.start(ctx, o, bin); err != nil {
		s.stop()
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	say("ready after %.1f s", time.Since(begin).Seconds())
	return s, nil
}

func (s *servers) start(ctx context.Context, o *options, bin string) error {
	reserved, err := reservePorts(s.inst.number, 12+kafkaPeers*portsPerPeer)
	if err != nil {
		return err
	}
	s.ports = reserved
	ports := reserved.free
	found := description{Root: s.inst.root, Bin: bin, Control: s.inst.path("control.sock")}
	var steps []func(context.Context) error
	if o.controlPlane {
		plane := &controlPlane{Root: s.inst.root, Bin: bin, Bind: "127.0.0.1", Address: "127.0.0.1", ServiceRange: "10.96.0.0/20",
			Port: ports[0], EtcdPort: ports[1], EtcdPeerPort: ports[2], ManagerPort: ports[3], SchedulerPort: ports[4]}
		found.ControlPlane = &access{plane.conf("admin")}
		steps = append(steps, func(ctx context.Context) error {
			if err := plane.prepare(); err != nil {
				return err
			}
			if err := plane.start(ctx, s.run); err != nil {
				return err
			}
			return plane.settled(ctx)
		})
	}
	if o.kafka {
		s.broker = &kafka{Root: s.inst.root, Home: filepath.Join(bin, "kafka-home"), Bind: "127.0.0.1", Address: "127.0.0.1",
			Port: ports[5], ControllerPort: ports[6], MetricsPort: ports[7], Config: o.kafkaConfig, mayArchive: true}
		s.broker.Secure = &secureListeners{Folder: s.inst.path("kafka-tls"), Address: s.broker.Address,
			TLS: ports[8], MutualTLS: ports[9], SASL: ports[10], SASLTLS: ports[11]}
		access := s.broker.access()
		found.Kafka = &access
		steps = append(steps, s.startBroker(s.broker))
	}
	if o.kafkaCluster {
		s.peers = newKafkaPeers(s.inst, filepath.Join(bin, "kafka-home"), ports[12:])
		for _, peer := range s.peers {
			found.KafkaCluster = append(found.KafkaCluster, peer.access())
			steps = append(steps, s.startBroker(peer))
		}
	}
	if o.node {
		if s.node, err = newNode(s.inst, bin, o.images); err != nil {
			return err
		}
		if found.Node, err = s.node.description(); err != nil {
			return err
		}
		steps = append(steps, s.node.start)
	}
	if err := together(ctx, steps...); err != nil {
		return err
	}
	if err := serveControl(found.Control, s.inst.controlHandler(ctx, s.broker, s.peers)); err != nil {
		return err
	}
	return found.write(s.description)
}

func (s *servers) startBroker(broker *kafka) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := broker.prepare(ctx); err != nil {
			return err
		}
		return broker.start(ctx, s.run)
	}
}

func (s *servers) run(name string, args []string) (*server, error) {
	started := &server{name: name, args: args, dir: s.inst.root, started: s.inst.noteProcess}
	if err := started.start(); err != nil {
		return nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.running = append(s.running, started)
	return started, nil
}

// stop ends everything and removes the instance. Nothing in it is worth an orderly end, so there is none.
func (s *servers) stop() {
	s.broker.end()
	for _, peer := range s.peers {
		peer.end()
	}
	s.node.stop()
	for _, server := range s.running {
		server.stop(syscall.SIGKILL, time.Second)
	}
	if logs := os.Getenv("MQ_LOGS"); logs != "" {
		s.saveLogs(logs)
	}
	if err := s.inst.clean(); err != nil {
		say("something is left in %s, `mq-cluster down` tries again: %v", s.inst.root, err)
		return
	}
	if s.ports != nil {
		s.ports.guard.Close()
	}
	s.inst.release()
}

func (s *servers) saveLogs(folder string) {
	host, _ := filepath.Glob(s.inst.path("*.log"))
	node, _ := filepath.Glob(s.inst.path("node", "*.log"))
	for _, log := range append(host, node...) {
		text, err := os.ReadFile(log)
		err = errors.Join(err, os.MkdirAll(folder, 0o755), os.WriteFile(filepath.Join(folder, filepath.Base(log)), text, 0o644))
		if err != nil {
			say("saving %s: %v", log, err)
		}
	}
}

// binFolder is where this very program lies: make puts it beside the servers that fit it.
func binFolder() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	bin := filepath.Dir(self)
	for _, name := range []string{"kube-apiserver", "kafka-home"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return "", errors.New("no " + name + " beside " + self + ": `make servers` builds the launcher together with its servers")
		}
	}
	return bin, nil
}

// together runs the steps side by side. The first failure ends the others' context and is returned.
func together(ctx context.Context, steps ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for _, step := range steps {
		group.Go(func() {
			if err := step(ctx); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}
