package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// kafka is one broker that is a controller too: alone, or one of several.
type kafka struct {
	Root           string `json:"root"`
	Home           string `json:"home"` // jars in lib/, class archive beside it
	Bind           string `json:"bind"`
	Address        string `json:"address"` // advertised: the one address that everybody uses
	Port           int    `json:"port"`
	ControllerPort int    `json:"controllerPort"`
	MetricsPort    int    `json:"metricsPort"`

	Secure *secureListeners `json:"-"` // beside the plain one, if it has them
	Peer   *kafkaPeer       `json:"-"` // its place among others, if it has one
	Config []string         `json:"-"` // more lines of its configuration

	mayArchive bool // this broker writes the class archive if there is none

	faults  sync.Mutex // one at a time
	server  *server
	archive string // this start writes the class archive there
	paused  bool
}

func (k *kafka) bootstrap() string { return fmt.Sprintf("%s:%d", k.Address, k.Port) }
func (k *kafka) metrics() string {
	return fmt.Sprintf("http://%s:%d/metrics", k.Address, k.MetricsPort)
}

func (k *kafka) access() brokerAccess {
	access := brokerAccess{Bootstrap: k.bootstrap(), Metrics: k.metrics()}
	if k.Secure != nil {
		access.Secure = k.Secure.access()
	}
	if k.Peer != nil {
		access.Link = &linkAccess{k.Peer.linked(), k.Peer.link()}
	}
	return access
}

// prepare writes the configuration and formats the data folder.
func (k *kafka) prepare(ctx context.Context) error {
	if err := os.MkdirAll(k.Root, 0o755); err != nil {
		return err
	}
	if k.Secure != nil {
		if err := k.Secure.prepare(); err != nil {
			return err
		}
	}
	for template, file := range map[string]string{"server.properties": k.config(), "jmx.yaml": k.jmx()} {
		if err := render(template, file, k); err != nil {
			return err
		}
	}
	args, err := k.java("-Xmx128m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
	if err != nil {
		return err
	}
	args = append(args, "kafka.tools.StorageTool", "format", "-t", "mqTestClusterIdAAAAAAAA", "-c", k.config())
	args = append(args, k.Secure.users()...)
	format := exec.CommandContext(ctx, args[0], args[1:]...)
	format.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if out, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("formatting the broker's data folder: %w\n%s", err, out)
	}
	return nil
}

func (k *kafka) config() string { return filepath.Join(k.Root, "server.properties") }
func (k *kafka) jmx() string    { return filepath.Join(k.Root, "jmx.yaml") }

// java is the common beginning of all commands. The archive of loaded classes halves the start; it fits only the very same
// list of jars, so the list is always in one order.
func (k *kafka) java(options ...string) ([]string, error) {
	jars, err := filepath.Glob(filepath.Join(k.Home, "lib", "*.jar"))
	if err != nil || len(jars) == 0 {
		return nil, fmt.Errorf("no jars of Kafka in %s/lib: `make servers` puts them there", k.Home)
	}
	slices.Sort(jars)
	// Without container support Java does not read the cgroup mounts, which it misunderstands on some machines.
	args := []string{"java", "-Xshare:auto", "-XX:-UseContainerSupport", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"}
	return append(append(args, options...), "-cp", strings.Join(jars, ":")), nil
}

func (k *kafka) start(ctx context.Context, run starter) error {
	agent, err := filepath.Glob(filepath.Join(k.Home, "lib", "jmx_prometheus_javaagent-*.jar"))
	if err != nil || len(agent) != 1 {
		return fmt.Errorf("no metrics agent in %s/lib: `make servers` puts it there", k.Home)
	}
	options := []string{"-Xms64m", "-Xmx256m", "-XX:MaxMetaspaceSize=128m", "-Xss512k",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.log.kafka.server=info",
		"-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
		// Java archives no classes beside an agent unless told so; the right choice for production, not for a test broker.
		"-XX:+IgnoreUnrecognizedVMOptions", "-XX:+UnlockDiagnosticVMOptions", "-XX:+AllowArchivingWithJavaAgent",
		fmt.Sprintf("-javaagent:%s=%s:%d:%s", agent[0], k.Bind, k.MetricsPort, k.jmx())}
	classes := filepath.Join(k.Home, "classes.jsa")
	if _, err := os.Stat(classes); err == nil {
		options = append(options, "-XX:SharedArchiveFile="+classes)
	} else if k.mayArchive {
		k.archive = fmt.Sprintf("%s.%d", classes, os.Getpid())
		options = append(options, "-XX:ArchiveClassesAtExit="+k.archive)
	}
	args, err := k.java(options...)
	if err != nil {
		return err
	}
	name := hostBroker
	if k.Peer != nil {
		name = k.Peer.name()
	}
	if k.server, err = run(name, append(args, "kafka.Kafka", k.config())); err != nil {
		return err
	}
	return k.ready(ctx)
}

func (k *kafka) ready(ctx context.Context) error {
	return k.server.ready(ctx, func(context.Context) error {
		if !bytes.Contains(k.server.output(), []byte("Kafka Server started")) {
			return errors.New("it has not said that it started")
		}
		return nil
	})
}

// end is the broker's part of a teardown. The very first broker writes the class archive for all later ones.
func (k *kafka) end() {
	if k == nil || k.server == nil {
		return
	}
	k.faults.Lock()
	defer k.faults.Unlock()
	if k.archive == "" {
		k.server.stop(syscall.SIGKILL, time.Second)
		return
	}
	k.server.stop(syscall.SIGTERM, 30*time.Second)
	if err := os.Rename(k.archive, filepath.Join(k.Home, "classes.jsa")); err != nil {
		say("the broker wrote no class archive; later starts stay slower: %v", err)
	}
}

// fault does to the broker what a test wants.
func (k *kafka) fault(ctx context.Context, action string) error {
	k.faults.Lock()
	defer k.faults.Unlock()
	running := k.server.running()
	switch {
	case action == "start" && running:
		return errors.New("the broker is running")
	case action != "start" && !running:
		return errors.New("the broker is stopped")
	case action == "stop" && k.paused:
		return errors.New("the broker is paused")
	}
	switch action {
	case "start":
		k.paused = false
		if err := k.server.start(); err != nil {
			return err
		}
		return k.ready(ctx)
	case "stop":
		k.server.stop(syscall.SIGTERM, 30*time.Second)
		return nil
	case "kill":
		k.server.stop(syscall.SIGKILL, time.Second)
		return nil
	case "pause":
		k.paused = true
		return k.server.cmd.Process.Signal(syscall.SIGSTOP)
	case "resume":
		k.paused = false
		return k.server.cmd.Process.Signal(syscall.SIGCONT)
	default:
		return fmt.Errorf("unknown action %q: stop, start, kill, pause, resume", action)
	}
}
