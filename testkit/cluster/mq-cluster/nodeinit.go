package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
)

func init() {
	// Process 1 of a node changes the namespaces of its main thread; its children must come from that thread.
	if len(os.Args) > 1 && os.Args[1] == "node-init" {
		runtime.LockOSThread()
	}
}

func readNode(args []string) (*node, error) {
	if len(args) != 1 {
		return nil, errors.New("this command belongs to `mq-cluster run --node`")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return nil, err
	}
	n := &node{}
	return n, json.Unmarshal(text, n)
}

// nodeInit is process 1: it gives the node its own view of the machine, starts the servers and reaps what is orphaned. When
// it ends, the kernel ends everything inside.
func nodeInit(args []string) error {
	n, err := readNode(args)
	if err == nil {
		err = n.isolate()
	}
	if err == nil {
		_, err = fmt.Fscanln(os.Stdin, new(string)) // until the cable is laid
	}
	if err == nil {
		err = n.network()
	}
	report := reportFile()
	if err != nil {
		fmt.Fprint(report, err)
		return err
	}
	servers := exec.Command("/proc/self/exe", append([]string{"node-servers"}, args...)...)
	servers.Stdout, servers.Stderr = os.Stdout, os.Stderr
	servers.ExtraFiles = []*os.File{report}
	if err := servers.Start(); err != nil {
		return err
	}
	report.Close()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
		if pid == servers.Process.Pid && (status.Exited() || status.Signaled()) {
			return errors.New("the servers' parent ended")
		}
	}
}

// isolate runs in new namespaces that still show the host's files.
func (n *node) isolate() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	for _, group := range n.Cgroups {
		if err := joinCgroup(group.Folder); err != nil {
			return err
		}
	}
	// Only now: the groups that we are in become the root of what the node sees.
	if err := syscall.Unshare(syscall.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making a cgroup namespace: %w", err)
	}
	// The host's mounts go, since programs that still see them in the list of mounts are misled.
	if err := syscall.Unmount("/sys/fs/cgroup", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting the host's cgroups: %w", err)
	}
	resolver, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, step := range []func() error{
		func() error { return mount("proc", "/proc", "proc", "") },
		func() error { return mount("sysfs", "/sys", "sysfs", "") },
		func() error { return mountCgroups(n.Cgroups) },
		func() error { return mount("tmpfs", "/run", "tmpfs", "") },
		func() error { return mount("tmpfs", "/var/log", "tmpfs", "") },
		func() error { return emptyFile(n.path("resolv.conf"), resolver) },
		n.pinSysctls,
		func() error { return syscall.Sethostname([]byte("node")) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) path(name string) string { return filepath.Join(n.ControlPlane.Root, name) }

// emptyFile hides the host's list of name servers: none of them can be reached from inside, and Kafka's TLS listener would wait
// ten seconds for one on every connection.
func emptyFile(source, target string) error {
	if target == "" {
		return nil
	}
	if err := os.WriteFile(source, nil, 0o644); err != nil {
		return err
	}
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) { // it was below /run, which is new
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, nil, 0o644)
	}
	return bind(source, target)
}

// pinSysctls shows the kubelet the values that it wants of the machine-wide settings, so that it leaves the machine alone.
func (n *node) pinSysctls() error {
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		target := "/proc/sys/" + name
		if _, err := os.Stat(target); err != nil {
			continue
		}
		source := n.path("sysctl-" + filepath.Base(name))
		if err := os.WriteFile(source, []byte(value+"\n"), 0o444); err != nil {
			return err
		}
		if err := bind(source, target); err != nil {
			return err
		}
	}
	return nil
}

func bind(source, target string) error {
	if err := syscall.Mount(source, target, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s over %s: %w", source, target, err)
	}
	return nil
}

func (n *node) network() error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", n.Address + "/24", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		{"route", "add", "default", "via", n.Gateway},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}
