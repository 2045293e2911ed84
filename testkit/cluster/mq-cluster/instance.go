package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

const instances = 100

// instance is a numbered folder that holds everything a run has. Its lock says whether the owner lives.
type instance struct {
	number int
	root   string
	lock   *os.File

	mutex  sync.Mutex // servers start side by side
	record record
}

// record is what a later `mq-cluster down` must know when the owner was killed.
type record struct {
	Boot      string    `json:"boot"` // process ids mean nothing after a reboot
	Kept      bool      `json:"kept"`
	Owner     process   `json:"owner"`
	Processes []process `json:"processes"`
	Node      process   `json:"node"` // process 1 of the node, as the host numbers it
	Interface string    `json:"interface"`
	Cgroups   []string  `json:"cgroups"`
}

// process is a process id with the start time that tells it from a later process of the same id.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

// runFolder is where instances live: $MQ_RUN, or a default that survives no reboot for users, and has space for root.
func runFolder() string {
	if folder := os.Getenv("MQ_RUN"); folder != "" {
		return folder
	}
	if os.Getuid() == 0 {
		return "/var/tmp/mq"
	}
	if folder := os.Getenv("XDG_RUNTIME_DIR"); folder != "" {
		return filepath.Join(folder, "mq")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("mq-%d", os.Getuid()))
}

// newInstance takes the lowest free number. A folder whose owner is gone is cleaned and taken.
func newInstance(kept bool) (*instance, error) {
	if err := os.MkdirAll(runFolder(), 0o755); err != nil {
		return nil, err
	}
	for number := range instances {
		root := filepath.Join(runFolder(), strconv.Itoa(number))
		if err := os.Mkdir(root, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		lock, err := lockFolder(root)
		if err != nil {
			continue // in use
		}
		inst := &instance{number: number, root: root, lock: lock}
		if err := inst.clean(); err != nil {
			say("instance %d of an earlier run cannot be cleaned, taking the next: %v", number, err)
			lock.Close()
			continue
		}
		// Another user's or another $MQ_RUN's node may have this number.
		if _, err := os.Stat("/sys/class/net/" + inst.interfaceName()); err == nil {
			inst.release()
			continue
		}
		inst.record = record{Boot: bootID(), Kept: kept, Owner: processOf(os.Getpid())}
		return inst, inst.note(func(*record) {})
	}
	return nil, fmt.Errorf("all %d instances under %s are in use; `mq-cluster down` cleans crashed and kept ones", instances, runFolder())
}

// lockFolder locks a folder for as long as the file is open, which is never longer than this process lives.
func lockFolder(root string) (*os.File, error) {
	folder, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		folder.Close()
		return nil, err
	}
	// The last owner may have removed the folder between the two calls.
	locked, err1 := folder.Stat()
	named, err2 := os.Stat(root)
	if err1 != nil || err2 != nil || !os.SameFile(locked, named) {
		folder.Close()
		return nil, fmt.Errorf("%s was just removed", root)
	}
	return folder, nil
}

func (i *instance) interfaceName() string { return fmt.Sprintf("mq%d", i.number) }

func (i *instance) path(elements ...string) string {
	return filepath.Join(append([]string{i.root}, elements...)...)
}

// note changes the record on disk, before anything relies on what it says.
func (i *instance) note(change func(*record)) error {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	change(&i.record)
	text, err := json.MarshalIndent(i.record, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(i.path("instance.json"), text)
}

func (i *instance) noteProcess(pid int) error {
	return i.note(func(r *record) { r.Processes = append(r.Processes, processOf(pid)) })
}

// release removes the empty folder and gives the number back.
func (i *instance) release() {
	_ = os.Remove(i.root)
	i.lock.Close()
}

// writeFile replaces a file in one step, so that no reader sees half of it.
func writeFile(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

func processOf(pid int) process {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{PID: pid}
	}
	// The second field is the name in parentheses and may hold anything; the start time is the 20th after it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return process{PID: pid}
	}
	return process{PID: pid, Start: fields[19]}
}

// alive tells whether this very process still runs (a zombie does not).
func (p process) alive() bool {
	return p.Start != "" && processOf(p.PID) == p
}
