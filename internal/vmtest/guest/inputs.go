package guest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// layout is raised when the way an image is put together changes, so that
// images of the way before are not taken.
const layout = "2"

// agentPackage is the program that serves the host in the guest.
const agentPackage = "blockengine/internal/vmtest/agent"

// inputs are the contents of an image, but for the kernel's modules.
type inputs struct {
	files   map[string][]byte // by path in the guest
	applets []string          // of busybox
}

// gather reads all that goes into an image from this host.
func (b *builder) gather(ctx context.Context) (inputs, error) {
	in := inputs{files: map[string][]byte{"/init": initScript}}
	if err := b.addAgent(ctx, in); err != nil {
		return in, err
	}
	for _, p := range Programs {
		if err := b.addProgram(ctx, in, p.Program); err != nil {
			return in, err
		}
	}
	return in, b.addBusybox(ctx, &in)
}

func (b *builder) addAgent(ctx context.Context, in inputs) error {
	tmp, err := os.MkdirTemp(b.cache, "tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "agent")
	if _, err := b.run(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, agentPackage); err != nil {
		return err
	}
	return in.read("/sbin/agent", file)
}

// addProgram adds a program of this host under /usr/sbin, where it is found
// before busybox's, with its libraries at the places that it names.
func (b *builder) addProgram(ctx context.Context, in inputs, program string) error {
	path, err := find(program)
	if err != nil {
		return err
	}
	if err := in.read("/usr/sbin/"+program, path); err != nil {
		return err
	}
	list, err := b.run(ctx, "ldd", path)
	if err != nil {
		return err
	}
	for _, lib := range libraries(list) {
		if _, there := in.files[lib]; there {
			continue
		}
		if err := in.read(lib, lib); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) addBusybox(ctx context.Context, in *inputs) error {
	path, err := find("busybox")
	if err != nil {
		return err
	}
	if list, err := b.run(ctx, "ldd", path); err == nil && len(libraries(list)) > 0 {
		return errors.New("busybox is linked with libraries: apt-get install busybox-static")
	}
	list, err := b.run(ctx, "busybox", "--list")
	if err != nil {
		return err
	}
	in.applets = strings.Fields(list)
	return in.read("/bin/busybox", path)
}

func (in inputs) read(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	in.files[to] = data
	return nil
}

// names of the files, in order.
func (in inputs) names() []string {
	names := make([]string, 0, len(in.files))
	for name := range in.files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// hash names an image of these inputs with a kernel.
func (in inputs) hash(kernel string) string {
	h := sha256.New()
	fmt.Fprintln(h, layout, kernel, Modules, in.applets)
	for _, name := range in.names() {
		fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(in.files[name]))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// write makes the initramfs out of the inputs and the staged modules.
func (in inputs) write(path, stage string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	a := newArchive(w)
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "mnt", "root", "etc/target"} {
		a.dir(dir)
	}
	a.char("dev/console", 5, 1) // before devtmpfs, for process 1
	for _, name := range in.names() {
		a.file(name, modeExec, in.files[name])
	}
	for _, applet := range in.applets {
		if applet != "busybox" {
			a.link("bin/"+applet, "busybox")
		}
	}
	if err := a.tree(stage); err != nil {
		return err
	}
	return errors.Join(a.close(), w.Flush(), f.Close())
}

// tree adds all files below a directory.
func (a *archive) tree(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil {
			a.file(strings.TrimPrefix(path, root), modeExec, data)
		}
		return err
	})
}

// Overlay writes an archive with files of this host, by their paths in the
// guest, that can be put behind an [Image]'s initramfs.
func Overlay(path string, files map[string]string) error {
	in := inputs{files: map[string][]byte{}}
	for to, from := range files {
		if err := in.read(to, from); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	a := newArchive(w)
	for _, name := range in.names() {
		a.file(name, modeExec, in.files[name])
	}
	return errors.Join(a.close(), w.Flush(), f.Close())
}
