package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// cgroup is one hierarchy of control groups and the folder that a node has in it. On version 1 there is one hierarchy per
// controller, all below the groups that we are in ourselves; on version 2 there is a single one, and the folder is at its root,
// because a group that has members of its own cannot hand controllers down.
type cgroup struct {
	Folder      string `json:"folder"`
	Controllers string `json:"controllers"` // as mounted, e.g. "cpu,cpuacct" or "name=systemd"; empty for version 2
	Unified     bool   `json:"unified"`     // version 2 with all controllers
}

func planCgroups(name string) ([]cgroup, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	plan := cgroupsFor(name, string(own), string(mounts))
	if len(plan) == 0 {
		return nil, errors.New("no cgroups are mounted on this machine: a node needs them for its pods")
	}
	return plan, nil
}

// cgroupsFor decides by the texts of /proc/self/cgroup and /proc/self/mountinfo.
func cgroupsFor(name, own, mounts string) []cgroup {
	var plan []cgroup
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		root, point, found := cgroupMount(mounts, parts[1])
		if !found {
			continue // a hierarchy that nobody mounted
		}
		below, err := filepath.Rel(root, parts[2])
		if err != nil || strings.HasPrefix(below, "..") {
			below = "." // we see less than the whole; what we see begins at our own group
		}
		plan = append(plan, cgroup{Folder: filepath.Join(point, below, name), Controllers: parts[1]})
	}
	if len(plan) == 1 && plan[0].Controllers == "" {
		_, point, _ := cgroupMount(mounts, "")
		plan[0] = cgroup{Folder: filepath.Join(point, name), Unified: true}
	}
	return plan
}

// cgroupMount finds where the hierarchy of these controllers is mounted, and which of its groups is the root there. Version 2
// has no controllers in its name.
func cgroupMount(mounts, controllers string) (root, point string, found bool) {
	for line := range strings.Lines(mounts) {
		left, right, _ := strings.Cut(strings.TrimSpace(line), " - ")
		fields, kind := strings.Fields(left), strings.Fields(right)
		if len(fields) < 5 || len(kind) < 3 {
			continue
		}
		options := strings.Split(kind[2], ",")
		other := func(c string) bool { return !slices.Contains(options, c) }
		if kind[0] == "cgroup2" && controllers == "" ||
			kind[0] == "cgroup" && controllers != "" && !slices.ContainsFunc(strings.Split(controllers, ","), other) {
			return fields[3], fields[4], true
		}
	}
	return "", "", false
}

func makeCgroups(plan []cgroup) error {
	for _, group := range plan {
		if err := os.Mkdir(group.Folder, 0o755); err != nil {
			return fmt.Errorf("making a cgroup for the node: %w", err)
		}
		parent := filepath.Dir(group.Folder)
		switch {
		case group.Unified:
			if err := handDown(parent); err != nil {
				return err
			}
		case slices.Contains(strings.Split(group.Controllers, ","), "cpuset"):
			// A new cpuset is empty, and nobody can join an empty one.
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				value, err := os.ReadFile(filepath.Join(parent, file))
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(group.Folder, file), value, 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// handDown makes all controllers of a version 2 group available to its children.
func handDown(folder string) error {
	controllers, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(controllers)) {
		if err := os.WriteFile(filepath.Join(folder, "cgroup.subtree_control"), []byte("+"+name), 0o644); err != nil {
			return fmt.Errorf("the cgroup %s cannot hand the controller %s down: %w", folder, name, err)
		}
	}
	return nil
}

// joinCgroup moves this process.
func joinCgroup(folder string) error {
	if err := os.WriteFile(filepath.Join(folder, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("joining the cgroup %s: %w", folder, err)
	}
	return nil
}

// mountCgroups shows the node its own part of the hierarchies, in the usual places.
func mountCgroups(plan []cgroup) error {
	const top = "/sys/fs/cgroup"
	if plan[0].Unified {
		if err := mount("cgroup2", top, "cgroup2", ""); err != nil {
			return err
		}
		// The kubelet makes groups with controllers at the top, so nobody may be a member of the top itself.
		if err := os.Mkdir(top+"/init", 0o755); err != nil {
			return err
		}
		if err := joinCgroup(top + "/init"); err != nil {
			return err
		}
		return handDown(top)
	}
	if err := mount("tmpfs", top, "tmpfs", ""); err != nil {
		return err
	}
	for _, group := range plan {
		if group.Controllers == "" {
			continue // version 2 without controllers, beside version 1: of no use here
		}
		name := strings.TrimPrefix(group.Controllers, "name=")
		options := group.Controllers
		if name != group.Controllers {
			options = "none," + group.Controllers
		}
		if err := mount("cgroup", filepath.Join(top, name), "cgroup", options); err != nil {
			return err
		}
		for _, single := range strings.Split(name, ",") {
			if single != name {
				if err := os.Symlink(name, filepath.Join(top, single)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func mount(source, target, kind, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(source, target, kind, 0, options); err != nil {
		return fmt.Errorf("mounting %s (%s) on %s: %w", kind, options, target, err)
	}
	return nil
}
