package main

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// terminal is the one that a command was made the foreground of; nil if there is none.
type terminal struct{ group int }

// takeTerminal makes the command the foreground of our terminal, if we are it: Ctrl-C then reaches the command alone, and the
// servers end in order after it.
func takeTerminal(cmd *exec.Cmd) *terminal {
	group, err := unix.IoctlGetInt(int(os.Stdin.Fd()), unix.TIOCGPGRP)
	if err != nil || group != unix.Getpgrp() {
		return nil
	}
	cmd.SysProcAttr.Foreground = true
	cmd.SysProcAttr.Ctty = int(os.Stdin.Fd())
	return &terminal{group}
}

func (t *terminal) takeBack() {
	if t == nil {
		return
	}
	signal.Ignore(syscall.SIGTTOU) // what the kernel sends to a background process that does this
	_ = unix.IoctlSetPointerInt(int(os.Stdin.Fd()), unix.TIOCSPGRP, t.group)
}
