package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// spawn starts commands from one operating system thread that never ends: the kernel's parent-death signal is sent when the
// *thread* that started a child ends, and Go ends threads as it likes.
var spawn = sync.OnceValue(func() func(*exec.Cmd) error {
	type start struct {
		cmd    *exec.Cmd
		result chan error
	}
	starts := make(chan start)
	go func() {
		runtime.LockOSThread()
		for s := range starts {
			s.result <- s.cmd.Start()
		}
	}()
	return func(cmd *exec.Cmd) error {
		s := start{cmd, make(chan error)}
		starts <- s
		return <-s.result
	}
})

// server is a process of the instance. It dies with its owner, and its output goes to a file of its own.
type server struct {
	name string
	args []string
	dir  string // of its log
	// started, if set, learns the process id of every start.
	started func(pid int) error
	// Only the first process of a node has these.
	namespaces uintptr
	stdin      *os.File
	extra      []*os.File // from file 3 on

	cmd      *exec.Cmd
	logStart int64 // where this start's output begins
	done     chan struct{}
	expected atomic.Bool // its end is wanted
}

func (s *server) logFile() string { return filepath.Join(s.dir, s.name+".log") }

func (s *server) start() error {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if info, err := log.Stat(); err == nil {
		s.logStart = info.Size()
	}
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.ExtraFiles = log, log, s.extra
	if s.stdin != nil {
		s.cmd.Stdin = s.stdin
	}
	// A process group of its own keeps a terminal's Ctrl-C away: the owner decides when it ends.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, Cloneflags: s.namespaces}
	s.expected.Store(false)
	if err := spawn()(s.cmd); err != nil {
		return fmt.Errorf("starting %s: %w", s.name, err)
	}
	if s.started != nil {
		if err := s.started(s.cmd.Process.Pid); err != nil {
			_ = s.cmd.Process.Kill()
			return err
		}
	}
	s.done = make(chan struct{})
	go func(done chan struct{}) {
		_ = s.cmd.Wait()
		close(done)
		if !s.expected.Load() {
			say("%s ended unexpectedly (%s); the end of its log:\n%s", s.name, s.cmd.ProcessState, s.logTail(10))
		}
	}(s.done)
	return nil
}

func (s *server) running() bool {
	if s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// ready waits until check passes. It gives up when the process ends, when ctx does, or after two minutes.
func (s *server) ready(ctx context.Context, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var last error
	for {
		if last = check(ctx); last == nil {
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("%s ended before it was ready (%s)", s.name, s.cmd.ProcessState)
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("%s was not ready within two minutes: %w; the end of its log:\n%s", s.name, last, s.logTail(10))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop sends the signal and waits for the end; what does not end in time is killed.
func (s *server) stop(signal syscall.Signal, patience time.Duration) {
	if !s.running() {
		return
	}
	s.expected.Store(true)
	_ = s.cmd.Process.Signal(signal)
	select {
	case <-s.done:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

// output is what the server wrote since this start.
func (s *server) output() []byte {
	all, err := os.ReadFile(s.logFile())
	if err != nil || int64(len(all)) < s.logStart {
		return nil
	}
	return all[s.logStart:]
}

func (s *server) logTail(lines int) string {
	all := bytes.Split(bytes.TrimSpace(s.output()), []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "    " + strings.Join(strings.Split(string(bytes.Join(all, []byte("\n"))), "\n"), "\n    ")
}

// reportFile is file 3, on which a child tells its parent how the start went. Its own children must not hold it open.
func reportFile() *os.File {
	syscall.CloseOnExec(3)
	return os.NewFile(3, "report")
}

// exitCode follows the shells: a process that a signal ended counts as 128 + signal.
func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
