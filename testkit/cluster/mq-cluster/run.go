package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// options say which servers a run has.
type options struct {
	controlPlane, kafka, kafkaCluster, node, keep bool
	kafkaConfig                                   []string
	images                                        []string
	command                                       []string
}

func parseRun(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.BoolVar(&o.controlPlane, "control-plane", false, "")
	flags.BoolVar(&o.kafka, "kafka", false, "")
	flags.BoolVar(&o.kafkaCluster, "kafka-cluster", false, "")
	flags.BoolVar(&o.node, "node", false, "")
	flags.BoolVar(&o.keep, "keep", false, "")
	flags.Func("kafka-config", "", func(line string) error {
		o.kafkaConfig = append(o.kafkaConfig, line)
		return nil
	})
	flags.Func("image", "", func(path string) error {
		path, err := filepath.Abs(path)
		o.images = append(o.images, path)
		return err
	})
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	o.command = flags.Args()
	switch {
	case !o.controlPlane && !o.kafka && !o.kafkaCluster && !o.node:
		return nil, errors.New("`run` needs --control-plane, --kafka, --kafka-cluster or --node")
	case len(o.kafkaConfig) > 0 && !o.kafka:
		return nil, errors.New("--kafka-config needs --kafka: it is a line of that broker's configuration")
	case len(o.images) > 0 && !o.node:
		return nil, errors.New("--image needs --node: nothing else runs images")
	case len(o.command) == 0:
		return nil, errors.New("`run` needs a command after `--`")
	case o.node && os.Getuid() != 0:
		return nil, errors.New("--node needs root: it makes namespaces, cgroups and a network of its own; run it with sudo")
	}
	return o, nil
}

// signalled is why a context ended.
type signalled struct{ syscall.Signal }

func (s signalled) Error() string { return "ended by signal: " + s.String() }

// untilSignal returns a context that the first SIGINT, SIGTERM or SIGHUP ends. Later ones do nothing: a teardown is not
// interrupted.
func untilSignal() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() { cancel(signalled{(<-signals).(syscall.Signal)}) }()
	return ctx
}

func run(args []string) error {
	o, err := parseRun(args)
	if err != nil {
		return err
	}
	ctx := untilSignal()
	if o.keep {
		return runKept(ctx, args, o)
	}
	servers, err := startServers(ctx, o)
	if err != nil {
		return err
	}
	defer servers.stop()
	return runCommand(ctx, o.command, servers.description)
}

// runCommand runs the command to its end, or to the end of ctx, and returns its failure.
func runCommand(ctx context.Context, command []string, description string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "MQ_TESTKIT="+description)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	terminal := takeTerminal(cmd)
	if err := spawn()(cmd); err != nil {
		return fmt.Errorf("starting %s: %w", command[0], err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	defer terminal.takeBack()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// The whole group: the command's own children, such as test binaries, must not outlive the servers.
	stop := syscall.SIGTERM
	if cause := (signalled{}); errors.As(context.Cause(ctx), &cause) {
		stop = cause.Signal
	}
	_ = syscall.Kill(-cmd.Process.Pid, stop)
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		say("%s ignores the signal for 10 s: it is killed", command[0])
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		return <-done
	}
}

// runKept leaves the servers to a process of their own, in a session of its own, which `down` ends.
func runKept(ctx context.Context, args []string, o *options) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	keeper := exec.Command("/proc/self/exe", append([]string{"serve"}, args...)...)
	keeper.Stderr = os.Stderr
	keeper.ExtraFiles = []*os.File{write}
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := keeper.Start(); err != nil {
		return err
	}
	write.Close()
	end := func() { _ = keeper.Process.Signal(syscall.SIGTERM); _ = keeper.Wait() }
	stopWatching := context.AfterFunc(ctx, func() { _ = keeper.Process.Signal(syscall.SIGTERM) })
	var description string
	if _, err := fmt.Fscanln(read, &description); err != nil {
		_ = keeper.Wait()
		return errors.New("the servers did not start")
	}
	stopWatching()
	err = runCommand(ctx, o.command, description)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exitCode(exit.ProcessState) > 128 {
		end() // somebody pressed Ctrl-C: then nothing stays
		return err
	}
	say("the servers stay in %s; `%s down` ends them", filepath.Dir(description), os.Args[0])
	return err
}

// serve is that process. It reports the description on file 3 and lives until a signal.
func serve(args []string) error {
	o, err := parseRun(args)
	if err != nil {
		return err
	}
	ctx := untilSignal()
	servers, err := startServers(ctx, o)
	if err != nil {
		return err
	}
	defer servers.stop()
	// The terminal belongs to others from here on.
	if log, err := os.Create(servers.inst.path("serve.log")); err == nil {
		_ = syscall.Dup3(int(log.Fd()), int(os.Stderr.Fd()), 0)
	}
	report := reportFile()
	fmt.Fprintln(report, servers.description)
	report.Close()
	<-ctx.Done()
	return nil
}

// description is what tests read; the crate mq-testkit is its other half.
type description struct {
	Root         string           `json:"root"`
	Bin          string           `json:"bin"`
	Control      string           `json:"control"`
	ControlPlane *access          `json:"controlPlane,omitempty"`
	Kafka        *brokerAccess    `json:"kafka,omitempty"`
	KafkaCluster []brokerAccess   `json:"kafkaCluster,omitempty"`
	Node         *nodeDescription `json:"node,omitempty"`
}

type access struct {
	Kubeconfig string `json:"kubeconfig"`
}

type brokerAccess struct {
	Bootstrap string        `json:"bootstrap"`
	Metrics   string        `json:"metrics"`
	Secure    *secureAccess `json:"secure,omitempty"`
	Link      *linkAccess   `json:"link,omitempty"`
}

type nodeDescription struct {
	Kubeconfig string            `json:"kubeconfig"`
	AuditLog   string            `json:"auditLog"`
	Address    string            `json:"address"`
	Kafka      brokerAccess      `json:"kafka"`
	Images     map[string]string `json:"images"`
}

func (d *description) write(path string) error {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, text)
}

func (o *options) String() string {
	var parts []string
	for _, part := range []struct {
		name   string
		wanted bool
	}{{"control plane", o.controlPlane}, {"Kafka", o.kafka}, {"three brokers", o.kafkaCluster}, {"node", o.node}} {
		if part.wanted {
			parts = append(parts, part.name)
		}
	}
	return strings.Join(parts, ", ")
}
