// mq-cluster owns the servers of tests and demo: etcd, the Kubernetes control plane, Kafka and, as root, a whole node with
// real pods. `mq-cluster run … -- CMD` starts them, runs CMD beside them, and takes everything away again; what lies under one
// instance folder is all there is. docs/testing.md tells how it works.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

const usage = `usage:
  mq-cluster run [--control-plane] [--kafka] [--kafka-cluster] [--node] [--kafka-config NAME=VALUE]… [--image FILE]… [--keep]
                 -- CMD…
        starts servers, runs CMD with MQ_TESTKIT=<description of the servers>, stops them; exits as CMD did
        --control-plane  API server with built-in controllers, no node (no root)
        --kafka          one broker on the loopback interface (no root)
        --kafka-cluster  three brokers on the loopback interface that keep copies of each other's data (no root)
        --node           a node with real pods, cluster DNS and one broker (root)
        --kafka-config NAME=VALUE
                         a line more in the configuration of the broker of --kafka
        --image FILE     import an image (see below) into the node
        --keep           leave the servers running after CMD
  mq-cluster down [--all]        clean what crashed or kept runs left; with --all also what still runs
  mq-cluster enter N CMD…        run CMD inside node N
  mq-cluster ctl [-n N] kafka|kafka-1|kafka-2|kafka-3|node-kafka stop|start|kill|pause|resume
  mq-cluster image NAME:TAG BINARY [FOLDER=PATH]…
                                 write an image of BINARY and its shared libraries to standard output, with the content of
                                 each FOLDER in PATH
`

func main() {
	if len(os.Args) < 2 {
		fail(errors.New(usage))
	}
	args := os.Args[2:]
	var err error
	switch os.Args[1] {
	case "run":
		err = run(args)
	case "down":
		err = down(args)
	case "enter":
		err = enter(args)
	case "ctl":
		err = ctl(args)
	case "image":
		err = image(args)
	case "serve": // the detached half of `run --keep`
		err = serve(args)
	case "node-init": // process 1 of a node
		err = nodeInit(args)
	case "node-servers": // starts the servers of a node, inside it
		err = nodeServers(args)
	case "pause": // the container that holds a pod's namespaces
		pause()
	case "help", "-h", "--help":
		fmt.Print(usage)
	default:
		err = fmt.Errorf("unknown command %q\n%s", os.Args[1], usage)
	}
	if err != nil {
		fail(err)
	}
}

// fail ends the process with the exit code of the command that failed, or 1 and a sentence.
func fail(err error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exitCode(exit.ProcessState))
	}
	fmt.Fprintln(os.Stderr, "mq-cluster:", err)
	os.Exit(1)
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "mq-cluster: "+format+"\n", args...)
}
