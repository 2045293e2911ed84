package main

import (
	"reflect"
	"testing"
)

// The kinds of machines there are, as /proc/self/cgroup and /proc/self/mountinfo show them.
func TestCgroupsOfTheNode(t *testing.T) {
	cases := map[string]struct {
		own, mounts string
		want        []cgroup
	}{
		"version 2 with systemd: at the root, where groups without members are": {
			own:    "0::/user.slice/user-0.slice/session-1.scope\n",
			mounts: "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
			want:   []cgroup{{Folder: "/sys/fs/cgroup/mq3", Unified: true}},
		},
		"version 1, some controllers share a hierarchy, version 2 beside it without any": {
			own: "4:memory:/jobs/7\n3:cpu,cpuacct:/\n2:name=systemd:/init.scope\n0::/init.scope\n",
			mounts: "32 31 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" +
				"33 31 0:30 / /sys/fs/cgroup/systemd rw shared:5 - cgroup cgroup rw,xattr,name=systemd\n" +
				"34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:6 - cgroup cgroup rw,cpu,cpuacct\n" +
				"35 31 0:32 / /sys/fs/cgroup/memory rw shared:7 - cgroup cgroup rw,memory\n",
			want: []cgroup{
				{Folder: "/sys/fs/cgroup/memory/jobs/7/mq3", Controllers: "memory"},
				{Folder: "/sys/fs/cgroup/cpu,cpuacct/mq3", Controllers: "cpu,cpuacct"},
				{Folder: "/sys/fs/cgroup/systemd/init.scope/mq3", Controllers: "name=systemd"},
				{Folder: "/sys/fs/cgroup/unified/init.scope/mq3"},
			},
		},
		"version 1 in a container that sees only its own part": {
			own:    "4:memory:/docker/abc\n",
			mounts: "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			want:   []cgroup{{Folder: "/sys/fs/cgroup/memory/mq3", Controllers: "memory"}},
		},
		"nothing is mounted": {own: "4:memory:/\n", mounts: "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if found := cgroupsFor("mq3", c.own, c.mounts); !reflect.DeepEqual(found, c.want) {
				t.Errorf("found %+v\nwant  %+v", found, c.want)
			}
		})
	}
}
