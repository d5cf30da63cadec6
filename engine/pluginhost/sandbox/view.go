package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"blockengine/engine/sys"
)

// devices are all that a program sees in /dev.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}

// view is what the program will see of the file system: all of the host's,
// read-only, but for directories that are its own, empty and in memory (/tmp),
// others that are empty (/run, where the host's daemons listen; homes; the
// engine's state), and those that it was given.
type view struct {
	o      *orders
	trees  []tree         // in hand, to be put back
	blanks map[string]int // files that shall be empty, and what is laid over them
	sealed []string       // covers that become read-only
}

// tree is something that stays although its place is covered.
type tree struct {
	path string
	fd   int
	dir  bool
}

// buildView makes the view in this process's mount namespace.
func buildView(o *orders) error {
	v := view{o: o, blanks: map[string]int{}}
	for _, step := range []func() error{
		sys.MakeMountsPrivate,
		v.take,
		func() error { return sys.RestrictMounts("/", sys.ReadOnly|sys.NoSUID|sys.NoDev, true) },
		v.cover,
		v.place,
		v.seal,
		v.putBack,
		v.proc,
		func() error { return os.Chdir("/") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// take takes into hand what stays.
func (v *view) take() error {
	for _, path := range devices {
		err := v.hold(path, sys.NoSUID|sys.NoExec)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// Where name servers are is often written below /run.
	if target, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && v.o.Network && strings.HasPrefix(target, "/run/") {
		if err := v.hold(target, sys.NoSUID|sys.NoDev|sys.ReadOnly); err != nil {
			return err
		}
	}
	for _, path := range v.o.Keep {
		if err := v.hold(path, sys.NoSUID|sys.NoDev); err != nil {
			return err
		}
	}
	for _, path := range v.o.Hide {
		if st, err := os.Stat(path); err != nil || st.IsDir() {
			continue
		}
		fd, err := sys.CloneTree(os.DevNull)
		if err != nil {
			return err
		}
		v.blanks[path] = fd
	}
	return nil
}

func (v *view) hold(path string, f sys.MountFlags) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	fd, err := sys.CloneTree(path)
	if err != nil {
		return err
	}
	v.trees = append(v.trees, tree{path, fd, st.IsDir()})
	if err := sys.RestrictTree(fd, f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// cover lays empty directories over what the program shall not see. Outer ones
// first: what was in them is gone then, and needs no cover.
func (v *view) cover() error {
	own := fmt.Sprintf("mode=1777,nr_inodes=16384,size=%d", v.o.Tmpfs)
	const empty = "mode=755,nr_inodes=1024,size=64k"
	covers := map[string]string{"/tmp": own, "/var/tmp": own, "/dev": empty, "/run": empty}
	for _, path := range v.o.Hide {
		if covers[path] == "" {
			covers[path] = empty
		}
	}
	paths := make([]string, 0, len(covers))
	for path := range covers {
		paths = append(paths, path)
	}
	slices.SortFunc(paths, byLength)
	for _, path := range paths {
		covered, err := v.coverOne(path, covers[path])
		if err != nil {
			return err
		}
		if covered && covers[path] == empty {
			v.sealed = append(v.sealed, path)
		}
	}
	return v.fillDev(own)
}

// coverOne lays an empty directory over one, and says whether it did.
func (v *view) coverOne(path, options string) (bool, error) {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case st.Mode()&fs.ModeSymlink != 0:
		return false, nil // it leads to what is covered by its own name
	case st.IsDir():
		return true, sys.MountTmpfs(path, options)
	}
	fd, ok := v.blanks[path]
	if !ok {
		return false, fmt.Errorf("%s is no directory", path)
	}
	return false, sys.AttachTree(fd, path)
}

// fillDev makes what has to be in /dev besides devices.
func (v *view) fillDev(own string) error {
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join("/dev", name)); err != nil {
			return err
		}
	}
	if err := os.Mkdir("/dev/shm", 0o755); err != nil {
		return err
	}
	return sys.MountTmpfs("/dev/shm", own)
}

// place makes what trees are attached to, where a cover has taken it away.
func (v *view) place() error {
	slices.SortStableFunc(v.trees, func(a, b tree) int { return byLength(a.path, b.path) })
	for i, t := range v.trees {
		if slices.ContainsFunc(v.trees[:i], func(outer tree) bool { return within(outer.path, t.path) }) {
			continue // it is in that one
		}
		if err := placeOne(t); err != nil {
			return err
		}
	}
	return nil
}

func placeOne(t tree) error {
	_, err := os.Stat(t.path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if t.dir {
		return os.MkdirAll(t.path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(t.path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(t.path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// seal makes the covers read-only that are not for the program. Before anything
// is put back: it may have the same name.
func (v *view) seal() error {
	for _, path := range v.sealed {
		if err := sys.RestrictMounts(path, sys.ReadOnly, false); err != nil {
			return err
		}
	}
	return nil
}

// putBack attaches what was taken into hand, outer ones first.
func (v *view) putBack() error {
	for _, t := range v.trees {
		if err := sys.AttachTree(t.fd, t.path); err != nil {
			return err
		}
	}
	return nil
}

// proc shows the processes of the program's namespace. In a container whose own
// /proc has covers the kernel may refuse; then there is none.
func (v *view) proc() error {
	var err error
	for _, options := range []string{"", "subset=pid"} {
		if err = sys.MountProc("/proc", options); err == nil {
			return nil
		}
	}
	if err := sys.MountTmpfs("/proc", "mode=755,nr_inodes=16,size=4k"); err != nil {
		return err
	}
	return sys.RestrictMounts("/proc", sys.ReadOnly, false)
}

func byLength(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }

// within says whether path is dir or below it.
func within(dir, path string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
