package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// The control socket takes one line, "BROKER ACTION", and answers "ok" or a sentence.
const (
	hostBroker = "kafka"
	nodeBroker = "node-kafka"
)

// serveControl answers until the process ends.
func serveControl(path string, handle func(broker, action string) error) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				line, err := bufio.NewReader(connection).ReadString('\n')
				if err != nil {
					return
				}
				broker, action, _ := strings.Cut(strings.TrimSpace(line), " ")
				answer := "ok"
				if err := handle(broker, action); err != nil {
					answer = err.Error()
				}
				fmt.Fprintln(connection, answer)
			}()
		}
	}()
	return nil
}

// askControl sends one command and returns the refusal, if there is one.
func askControl(path, broker, action string) error {
	connection, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer connection.Close()
	fmt.Fprintln(connection, broker, action)
	answer, err := io.ReadAll(connection)
	if err != nil {
		return err
	}
	if text := strings.TrimSpace(string(answer)); text != "ok" {
		return errors.New(text)
	}
	return nil
}

// controlHandler serves the instance's own brokers and passes the rest on to the node.
func (i *instance) controlHandler(ctx context.Context, broker *kafka, peers []*kafka) func(string, string) error {
	return func(name, action string) error {
		for _, peer := range peers {
			if peer.Peer.name() == name {
				return peer.fault(ctx, action)
			}
		}
		switch name {
		case hostBroker:
			if broker == nil {
				return errors.New("this run has no broker on the host (--kafka)")
			}
			return broker.fault(ctx, action)
		case nodeBroker:
			if err := askControl(i.path("node.sock"), name, action); !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return errors.New("this run has no node (--node)")
		default:
			return fmt.Errorf("this run has no broker %q; there can be %s (--kafka), %s-1 to %s-%d (--kafka-cluster), %s (--node)",
				name, hostBroker, hostBroker, hostBroker, kafkaPeers, nodeBroker)
		}
	}
}
