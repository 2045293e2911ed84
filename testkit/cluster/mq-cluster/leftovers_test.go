package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// However a run ends, the machine is as before: these tests start real nodes and look.

func TestCommandEndsAndNothingIsLeft(t *testing.T) {
	run := startRun(t, "sh", "-c", "exit 7")
	var exit *exec.ExitError
	if err := run.launcher.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("the command ended with 7, the launcher with %v", err)
	}
	run.assertNothingLeft()
}

func TestInterruptedRunLeavesNothing(t *testing.T) {
	run := startRun(t, "sleep", "1000")
	run.awaitPod()
	run.signal(syscall.SIGINT)
	if err := run.launcher.Wait(); err == nil {
		t.Error("an interrupted run claims success")
	}
	run.assertNothingLeft()
}

func TestInterruptWhileStartingLeavesNothing(t *testing.T) {
	run := startRun(t, "true")
	run.await("the kubelet starts", func() bool { return exists(run.instance("node", "kubelet.log")) })
	run.signal(syscall.SIGTERM)
	if err := run.launcher.Wait(); err == nil {
		t.Error("an interrupted run claims success")
	}
	run.assertNothingLeft()
}

func TestKilledRunIsCleanedByDown(t *testing.T) {
	run := startRun(t, "sleep", "1000")
	run.awaitPod()
	run.signal(syscall.SIGKILL)
	_ = run.launcher.Wait()
	run.down()
	run.assertNothingLeft()
}

func TestKilledRunIsCleanedByTheNext(t *testing.T) {
	run := startRun(t, "true")
	run.await("the kubelet starts", func() bool { return exists(run.instance("node", "kubelet.log")) })
	run.signal(syscall.SIGKILL)
	_ = run.launcher.Wait()
	if out, err := run.command("run", "--kafka", "--", "true").CombinedOutput(); err != nil {
		t.Errorf("the next run failed: %v\n%s", err, out)
	}
	run.assertNothingLeft()
}

func TestKeptRunLivesUntilDown(t *testing.T) {
	run := startRun(t, "--keep", "true")
	if err := run.launcher.Wait(); err != nil {
		t.Fatalf("the command succeeded, but the launcher says %v", err)
	}
	run.awaitPod()
	run.down()
	run.assertNothingLeft()
}

// testRun is a launcher with one node, in a folder of its own.
type testRun struct {
	t        *testing.T
	folder   string
	launcher *exec.Cmd
	output   bytes.Buffer
	before   map[string]string
	record   record
}

func startRun(t *testing.T, args ...string) *testRun {
	t.Helper()
	if os.Getenv("MQ_CLUSTER") == "" || os.Getuid() != 0 {
		t.Fatal("this test starts nodes: run it as root with `make test`")
	}
	folder, err := os.MkdirTemp("/var/tmp", "mq-leftovers-")
	if err != nil {
		t.Fatal(err)
	}
	run := &testRun{t: t, folder: folder, before: machine(t)}
	if args[0] == "--keep" {
		args = append([]string{"run", "--node", "--keep", "--"}, args[1:]...)
	} else {
		args = append([]string{"run", "--node", "--"}, args...)
	}
	run.launcher = run.command(args...)
	run.launcher.Stdout, run.launcher.Stderr = &run.output, &run.output
	// Output of a command that outlives the launcher must not keep Wait waiting.
	run.launcher.WaitDelay = 5 * time.Second
	if err := run.launcher.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = run.command("down", "--all").CombinedOutput()
		_ = os.Remove(folder)
	})
	run.await("the instance is recorded", func() bool {
		run.record, err = readRecord(run.instance())
		return err == nil && len(run.record.Cgroups) > 0 && run.record.Node.PID != 0
	})
	return run
}

func (r *testRun) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Getenv("MQ_CLUSTER"), args...)
	cmd.Env = append(os.Environ(), "MQ_RUN="+r.folder)
	return cmd
}

// instance is the path of the only instance, whatever its number.
func (r *testRun) instance(elements ...string) string {
	found, _ := filepath.Glob(filepath.Join(r.folder, "*"))
	if len(found) != 1 {
		return filepath.Join(r.folder, "none")
	}
	return filepath.Join(append([]string{found[0]}, elements...)...)
}

func (r *testRun) await(what string, condition func() bool) {
	r.t.Helper()
	if waitFor(2*time.Minute, condition) != nil {
		r.t.Fatalf("waited two minutes in vain until %s; the launcher says:\n%s", what, r.output.String())
	}
}

// awaitPod returns once the node is up and a pod runs on it.
func (r *testRun) awaitPod() {
	r.t.Helper()
	r.await("the node is ready", func() bool { return exists(r.instance("testkit.json")) })
	kubectl := filepath.Join(filepath.Dir(os.Getenv("MQ_CLUSTER")), "kubectl")
	for _, args := range [][]string{
		{"create", "deployment", "pod", "--image", pauseName},
		{"wait", "--for=condition=Available", "deployment/pod", "--timeout=60s"},
	} {
		cmd := exec.Command(kubectl, append([]string{"--kubeconfig", r.instance("node", "admin.conf"), "--cache-dir", r.instance("kube-cache")}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			r.t.Fatalf("kubectl %v: %v\n%s", args, err, out)
		}
	}
}

func (r *testRun) signal(signal syscall.Signal) {
	r.t.Helper()
	if err := r.launcher.Process.Signal(signal); err != nil {
		r.t.Fatal(err)
	}
}

func (r *testRun) down() {
	r.t.Helper()
	if out, err := r.command("down").CombinedOutput(); err != nil {
		r.t.Errorf("`down` failed: %v\n%s", err, out)
	}
}

func (r *testRun) assertNothingLeft() {
	r.t.Helper()
	for what, before := range r.before {
		if after := machine(r.t)[what]; after != before {
			r.t.Errorf("%s changed from\n%s\nto\n%s", what, before, after)
		}
	}
	for _, folder := range r.record.Cgroups {
		if exists(folder) {
			r.t.Errorf("the cgroup %s is left", folder)
		}
	}
	if exists("/sys/class/net/" + r.record.Interface) {
		r.t.Errorf("the interface %s is left", r.record.Interface)
	}
	if routes, _ := exec.Command("ip", "route").Output(); bytes.Contains(routes, []byte(r.record.Interface+" ")) {
		r.t.Errorf("a route through %s is left:\n%s", r.record.Interface, routes)
	}
	if mounts, _ := os.ReadFile("/proc/self/mounts"); bytes.Contains(mounts, []byte(r.folder)) {
		r.t.Errorf("a mount is left:\n%s", mounts)
	}
	// A killed process is gone once its parent has read its end; only then does it count as left.
	if err := waitFor(10*time.Second, func() bool { return r.processes() == "" }); err != nil {
		r.t.Errorf("processes are left:\n%s", r.processes())
	}
	if left, _ := filepath.Glob(filepath.Join(r.folder, "*")); len(left) > 0 {
		r.t.Errorf("files are left: %v", left)
	}
}

// processes are those that name the folder in their arguments, environment or mounts.
func (r *testRun) processes() string {
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range all {
		for _, file := range []string{"cmdline", "environ", "mounts"} {
			if text, _ := os.ReadFile(filepath.Join(process, file)); bytes.Contains(text, []byte(r.folder)) {
				command, _ := os.ReadFile(filepath.Join(process, "cmdline"))
				found = append(found, process+" "+string(bytes.ReplaceAll(command, []byte{0}, []byte(" "))))
				break
			}
		}
	}
	return strings.Join(found, "\n")
}

// machine is what a node could change of the whole machine.
func machine(t *testing.T) map[string]string {
	t.Helper()
	state := map[string]string{}
	for _, command := range []string{"iptables-save", "nft list ruleset", "ip rule"} {
		fields := strings.Fields(command)
		out, err := exec.Command(fields[0], fields[1:]...).Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		var rules []string
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "#") { // iptables-save prints the time
				rules = append(rules, line)
			}
		}
		state[command] = strings.Join(rules, "")
	}
	for _, name := range []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward", "kernel/hostname"} {
		value, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		state[name] = string(value)
	}
	return state
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
