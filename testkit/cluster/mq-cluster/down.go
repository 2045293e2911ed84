package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// down takes away what is left of crashed and kept runs, and with --all also runs that are still going on.
func down(args []string) error {
	all := len(args) == 1 && args[0] == "--all"
	if len(args) > 0 && !all {
		return fmt.Errorf("`down` knows only --all, not %q", args)
	}
	var failures []error
	for number := range instances {
		root := filepath.Join(runFolder(), strconv.Itoa(number))
		if _, err := os.Stat(root); err != nil {
			continue
		}
		if err := downOne(number, root, all); err != nil {
			failures = append(failures, fmt.Errorf("instance %d: %w", number, err))
		}
	}
	return errors.Join(failures...)
}

func downOne(number int, root string, all bool) error {
	lock, err := lockFolder(root)
	if err != nil {
		found, err := readRecord(root)
		if err != nil {
			return err
		}
		if !found.Kept && !all {
			say("instance %d belongs to a run that is still going on (process %d); `--all` ends it too", number, found.Owner.PID)
			return nil
		}
		if found.Owner.alive() {
			_ = syscall.Kill(found.Owner.PID, syscall.SIGTERM)
		}
		if waitFor(20*time.Second, func() bool { return !found.Owner.alive() }) != nil {
			_ = syscall.Kill(found.Owner.PID, syscall.SIGKILL)
		}
		if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
			say("instance %d is stopped", number)
			return nil
		}
		if lock, err = lockFolder(root); err != nil {
			return fmt.Errorf("%s is still locked: %w", root, err)
		}
	}
	inst := &instance{number: number, root: root, lock: lock}
	if err := inst.clean(); err != nil {
		return err
	}
	inst.release()
	say("instance %d is cleaned", number)
	return nil
}

func readRecord(root string) (record, error) {
	var found record
	text, err := os.ReadFile(filepath.Join(root, "instance.json"))
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	return found, err
}

// clean removes whatever the record and the folder name, in the order in which one thing holds another: processes, network,
// cgroups, mounts, files. It is the end of every run, and the first thing after a crashed one.
func (i *instance) clean() error {
	found, err := readRecord(i.root)
	if err == nil && found.Boot == bootID() {
		if err := endProcesses(found.Processes); err != nil {
			return err
		}
		if err := removeInterface(found.Interface); err != nil {
			return err
		}
		if err := removeCgroups(found.Cgroups); err != nil {
			return err
		}
	}
	if err := unmountBelow(i.root); err != nil {
		return err
	}
	entries, err := os.ReadDir(i.root)
	if err != nil {
		return err
	}
	// The record goes last: if something cannot be removed, the next attempt still knows everything.
	slices.SortFunc(entries, func(a, b fs.DirEntry) int {
		return strings.Compare(strconv.FormatBool(a.Name() == "instance.json"), strconv.FormatBool(b.Name() == "instance.json"))
	})
	for _, entry := range entries {
		if err := os.RemoveAll(i.path(entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func endProcesses(processes []process) error {
	for _, p := range slices.Backward(processes) {
		if p.alive() {
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
		}
	}
	for _, p := range processes {
		if err := waitFor(20*time.Second, func() bool { return !p.alive() }); err != nil {
			return fmt.Errorf("process %d does not end", p.PID)
		}
	}
	return nil
}

func removeInterface(name string) error {
	exists := func() bool { _, err := os.Stat("/sys/class/net/" + name); return err == nil }
	if name == "" || !exists() {
		return nil
	}
	// The kernel removes it together with the node's network namespace, so it may vanish under our hands.
	if out, err := exec.Command("ip", "link", "delete", name).CombinedOutput(); err != nil && exists() {
		return fmt.Errorf("removing the interface %s: %s", name, out)
	}
	return nil
}

// removeCgroups removes the folders with all their children. Members that were just killed keep a folder busy for a moment.
func removeCgroups(folders []string) error {
	for _, folder := range folders {
		err := waitFor(20*time.Second, func() bool {
			var found []string
			_ = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					found = append(found, path)
				}
				return nil
			})
			for _, path := range slices.Backward(found) {
				_ = syscall.Rmdir(path)
			}
			_, err := os.Stat(folder)
			return errors.Is(err, fs.ErrNotExist)
		})
		if err != nil {
			return fmt.Errorf("the cgroup %s stays busy", folder)
		}
	}
	return nil
}

// unmountBelow is for the unlikely: mounts are made in the node's own mount namespace and end with it.
func unmountBelow(root string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for _, line := range slices.Backward(strings.Split(string(mounts), "\n")) {
		fields := strings.Fields(line)
		if len(fields) > 1 && strings.HasPrefix(fields[1], root+"/") {
			if err := syscall.Unmount(fields[1], syscall.MNT_DETACH); err != nil {
				return fmt.Errorf("unmounting %s: %w", fields[1], err)
			}
		}
	}
	return nil
}

// waitFor polls until the condition holds.
func waitFor(patience time.Duration, condition func() bool) error {
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}
