package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// image writes the image of one program: the binary, folders that it needs, and the shared libraries that they name, nothing else.
func image(args []string) error {
	if len(args) < 2 {
		return errors.New("`image` needs NAME:TAG and BINARY, and takes FOLDER=PATH for each folder with more")
	}
	name, binary := args[0], args[1]
	files := map[string]string{}
	programs := []string{binary}
	for _, arg := range args[2:] {
		folder, path, named := strings.Cut(arg, "=")
		if !named {
			return fmt.Errorf("%s does not say where in the image it belongs: FOLDER=PATH", arg)
		}
		found, err := addFolder(files, folder, path)
		if err != nil {
			return err
		}
		programs = append(programs, found...)
	}
	places := map[string]string{}
	for place, file := range files {
		places[file] = place
	}
	entrypoint, inFolder := places[binary]
	if !inFolder {
		entrypoint = "/" + filepath.Base(binary)
		files[entrypoint] = binary
	}
	for _, program := range programs {
		libraries, err := sharedLibraries(program, func(library string) bool {
			return slices.ContainsFunc(programs, func(program string) bool { return filepath.Base(program) == library })
		})
		if err != nil {
			return err
		}
		for _, library := range libraries {
			if places[filepath.Clean(library)] == "" {
				files[library] = library
			}
		}
	}
	return writeImage(os.Stdout, name, files, entrypoint)
}

// addFolder puts the files of a folder under a path of the image, and returns the libraries among them.
func addFolder(files map[string]string, folder, path string) ([]string, error) {
	var libraries []string
	err := filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		inside, err := filepath.Rel(folder, file)
		files[filepath.Join("/", path, inside)] = file
		if filepath.Ext(file) == ".so" {
			libraries = append(libraries, file)
		}
		return err
	})
	return libraries, err
}

// sharedLibraries asks the dynamic linker, which knows best. A static program has none. What is missing and `known` is where the program
// will find it once it runs.
func sharedLibraries(binary string, known func(library string) bool) ([]string, error) {
	out, err := exec.Command("ldd", binary).CombinedOutput()
	if err != nil {
		if bytes.Contains(out, []byte("not a dynamic executable")) {
			return nil, nil
		}
		return nil, fmt.Errorf("ldd %s: %w: %s", binary, err, out)
	}
	for _, missing := range regexp.MustCompile(`(\S+) => not found`).FindAllSubmatch(out, -1) {
		if !known(string(missing[1])) {
			return nil, fmt.Errorf("%s needs %s, which this machine lacks", binary, missing[1])
		}
	}
	var found []string
	for _, match := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllSubmatch(out, -1) {
		found = append(found, string(match[1]))
	}
	return found, nil
}

// writeImage writes an archive that `ctr images import` and `docker load` read: one layer, no times, no owners, so that the
// same files give the same image.
func writeImage(to io.Writer, name string, files map[string]string, entrypoint ...string) error {
	var layer bytes.Buffer
	content := tar.NewWriter(&layer)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		data, err := os.ReadFile(files[path])
		if err != nil {
			return err
		}
		if err := addFile(content, strings.TrimPrefix(path, "/"), data, 0o755); err != nil {
			return err
		}
	}
	if err := content.Close(); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": entrypoint, "Env": []string{"PATH=/"}, "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]imageManifest{{Config: "config.json", RepoTags: []string{name}, Layers: []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	archive := tar.NewWriter(to)
	return errors.Join(
		addFile(archive, "manifest.json", manifest, 0o644),
		addFile(archive, "config.json", config, 0o644),
		addFile(archive, "layer.tar", layer.Bytes(), 0o644),
		archive.Close(),
	)
}

type imageManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func addFile(to *tar.Writer, name string, data []byte, mode int64) error {
	if err := to.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := to.Write(data)
	return err
}

// imageName reads the name out of an archive.
func imageName(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	for archive := tar.NewReader(file); ; {
		header, err := archive.Next()
		if err != nil {
			return "", fmt.Errorf("%s is no image: %w", path, err)
		}
		if header.Name != "manifest.json" {
			continue
		}
		var manifests []imageManifest
		if err := json.NewDecoder(archive).Decode(&manifests); err != nil {
			return "", fmt.Errorf("%s is no image: %w", path, err)
		}
		if len(manifests) != 1 || len(manifests[0].RepoTags) != 1 {
			return "", fmt.Errorf("%s does not hold exactly one named image", path)
		}
		return manifests[0].RepoTags[0], nil
	}
}

const pauseName = "mq.test/pause:1"

// pauseImage is this very program: it is static, and a pod's first container only has to wait.
func (n *node) pauseImage(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return writeImage(file, pauseName, map[string]string{"/mq-cluster": self}, "/mq-cluster", "pause")
}

// pause waits for the end, and reaps what a pod's processes leave when they share its process namespace.
func pause() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
