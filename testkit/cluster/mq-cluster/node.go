package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// node is a machine of its own as far as the kernel can make one: a process tree in its own mount, pid, network, IPC, host name
// and cgroup namespaces. The host sees one interface and one route of it. Its plan goes to node.json, which the processes
// inside read.
type node struct {
	Root         string       `json:"root"`
	Bin          string       `json:"bin"`
	CNI          string       `json:"cni"` // folder of the network plugins
	Subnet       string       `json:"subnet"`
	Address      string       `json:"address"`
	Gateway      string       `json:"gateway"`
	DNS          string       `json:"dns"`
	PodRange     string       `json:"podRange"`
	ControlPlane controlPlane `json:"controlPlane"`
	Kafka        kafka        `json:"kafka"`
	Images       []string     `json:"images"`
	Cgroups      []cgroup     `json:"cgroups"`

	inst *instance
	init *server
}

func newNode(inst *instance, bin string, images []string) (*node, error) {
	cni, err := checkMachine(inst.root)
	if err != nil {
		return nil, err
	}
	subnet := fmt.Sprintf("10.%d", 100+inst.number)
	n := &node{
		inst: inst, Root: inst.root, Bin: bin, CNI: cni, Images: images,
		Subnet: subnet + ".0.0/16", Address: subnet + ".0.2", Gateway: subnet + ".0.1",
		DNS: subnet + ".96.10", PodRange: subnet + ".1.0/24",
	}
	n.ControlPlane = controlPlane{Root: inst.path("node"), Bin: bin, Bind: "0.0.0.0", Address: n.Address, HasNode: true,
		ServiceRange: subnet + ".96.0/20", Port: 6443, EtcdPort: 2379, EtcdPeerPort: 2380, ManagerPort: 10257, SchedulerPort: 10259}
	n.Kafka = kafka{Root: inst.path("node"), Home: bin + "/kafka-home", Bind: n.Address, Address: n.Address,
		Port: 9092, ControllerPort: 9093, MetricsPort: 9404}
	return n, nil
}

// checkMachine names what the node would lack, and returns the folder of the network plugins.
func checkMachine(root string) (string, error) {
	const install = "apt-get install --no-install-recommends containerd runc containernetworking-plugins conntrack iptables nftables iproute2"
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "conntrack", "iptables", "nft", "ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("a node needs %s: `%s`", program, install)
		}
	}
	var stat syscall.Statfs_t
	if err := syscall.Statfs(root, &stat); err != nil {
		return "", err
	}
	const overlayfs = 0x794c7630
	if stat.Type == overlayfs {
		return "", fmt.Errorf("%s lies on an overlay file system, which cannot hold containers: set MQ_RUN to a folder on ext4 or xfs", root)
	}
	for _, folder := range []string{"/usr/lib/cni", "/opt/cni/bin"} {
		if _, err := os.Stat(folder + "/bridge"); err == nil {
			return folder, nil
		}
	}
	return "", fmt.Errorf("a node needs the CNI plugins in /usr/lib/cni or /opt/cni/bin: `%s`", install)
}

func (n *node) description() (*nodeDescription, error) {
	names := map[string]string{}
	for _, path := range n.Images {
		name, err := imageName(path)
		if err != nil {
			return nil, err
		}
		short, _, _ := strings.Cut(name[strings.LastIndexByte(name, '/')+1:], ":")
		names[short] = name
	}
	return &nodeDescription{n.ControlPlane.conf("admin"), n.ControlPlane.auditLog(), n.Address, n.Kafka.access(), names}, nil
}

// start returns when the node is ready and its broker, DNS and API server serve.
func (n *node) start(ctx context.Context) error {
	if err := n.prepare(); err != nil {
		return err
	}
	readReport, writeReport, err := os.Pipe()
	if err != nil {
		return err
	}
	defer readReport.Close()
	readGo, writeGo, err := os.Pipe()
	if err != nil {
		return err
	}
	defer writeGo.Close()
	n.init = &server{name: "node", args: []string{"/proc/self/exe", "node-init", n.inst.path("node.json")}, dir: n.Root,
		stdin: readGo, extra: []*os.File{writeReport}, started: n.note,
		namespaces: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	err = n.init.start()
	writeReport.Close()
	readGo.Close()
	if err != nil {
		return err
	}
	if err := n.connect(n.init.cmd.Process.Pid); err != nil {
		return err
	}
	fmt.Fprintln(writeGo, "go")
	stopWatching := context.AfterFunc(ctx, n.stop)
	defer stopWatching()
	report, err := io.ReadAll(readReport)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case string(report) != reportReady:
		return fmt.Errorf("the node did not start: %s\n%s", strings.TrimSpace(string(report)), n.init.logTail(10))
	}
	return nil
}

// prepare writes everything that the processes inside read, and makes the cgroups.
func (n *node) prepare() error {
	for _, folder := range []string{n.ControlPlane.Root, n.inst.path("node", "cni"), n.inst.path("node", "kubelet")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	firstService := strings.TrimSuffix(n.DNS, "10") + "1"
	if err := n.ControlPlane.prepare(n.Address, firstService); err != nil {
		return err
	}
	for template, file := range map[string]string{
		"containerd.toml": "containerd.toml", "cni.conflist": "cni/10-mq.conflist", "kubelet.yaml": "kubelet.yaml",
		"proxy.yaml": "proxy.yaml", "Corefile": "Corefile", "dns.yaml": "dns.yaml",
		"audit.yaml": "audit.yaml",
	} {
		if err := render(template, n.inst.path("node", file), n); err != nil {
			return err
		}
	}
	var err error
	// Never the name of a folder that an earlier run left.
	if n.Cgroups, err = planCgroups(fmt.Sprintf("%s-%d", n.inst.interfaceName(), os.Getpid())); err != nil {
		return err
	}
	// Before they exist: what is not written down is not cleaned.
	err = n.inst.note(func(r *record) {
		r.Interface = n.inst.interfaceName()
		for _, group := range n.Cgroups {
			r.Cgroups = append(r.Cgroups, group.Folder)
		}
	})
	if err != nil {
		return err
	}
	if err := makeCgroups(n.Cgroups); err != nil {
		return err
	}
	text, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(n.inst.path("node.json"), text)
}

func (n *node) note(pid int) error {
	return n.inst.note(func(r *record) {
		r.Node = processOf(pid)
		r.Processes = append(r.Processes, r.Node)
	})
}

// connect lays a cable between the host and the node. One route leads to node, pods and Services alike.
func (n *node) connect(pid int) error {
	name := n.inst.interfaceName()
	for _, args := range [][]string{
		{"link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(pid)},
		{"address", "add", n.Gateway + "/24", "dev", name},
		{"link", "set", name, "up"},
		{"route", "add", n.Subnet, "via", n.Address},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return nil
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// stop ends process 1 of the node; the kernel ends all others with it, and the mounts and the network after them.
func (n *node) stop() {
	if n != nil && n.init != nil {
		n.init.stop(syscall.SIGKILL, time.Second)
	}
}

// enter runs a command inside a node: its namespaces and its cgroups.
func enter(args []string) error {
	if len(args) < 2 {
		return errors.New("`enter` needs the number of an instance and a command")
	}
	found, err := readRecord(runFolder() + "/" + args[0])
	if err != nil || !found.Node.alive() {
		return fmt.Errorf("there is no node %s in %s", args[0], runFolder())
	}
	for _, folder := range found.Cgroups {
		if err := joinCgroup(folder); err != nil {
			return err
		}
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	pid := fmt.Sprint(found.Node.PID)
	arguments := append([]string{"nsenter", "-t", pid, "-m", "-p", "-n", "-i", "-u", "-C", "--wd=."}, args[1:]...)
	return syscall.Exec(nsenter, arguments, os.Environ())
}
