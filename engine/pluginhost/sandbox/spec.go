package sandbox

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"blockengine/engine/sys"
)

// Numbers of users for programs. The range is the one that systemd sets aside
// for users that exist only as long as a service runs.
const (
	firstUser = 61184
	lastUser  = 65519
)

// User gives the number of the user and group that a program of this name runs
// as if the engine is root and the mode is Strict. It is always the same, so
// that a directory can be given to it.
func User(name string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return firstUser + int(h.Sum32()%(lastUser-firstUser+1))
}

// check refuses what cannot be meant.
func (s *Spec) check() error {
	switch {
	case s.Mode != Strict && s.Mode != Off:
		return fmt.Errorf("the sandbox %q is neither %q nor %q", s.Mode, Strict, Off)
	case s.Path == "" || len(s.Args) == 0:
		return errors.New("it has no file or no name for itself")
	case !filepath.IsAbs(s.StateDir):
		return fmt.Errorf("the state directory %q is not absolute", s.StateDir)
	case s.Nice < 0 || s.Nice > 19:
		return fmt.Errorf("its nice value is %d: choose 0 to 19", s.Nice)
	case s.CPUs < 0 || math.IsNaN(s.CPUs) || math.IsInf(s.CPUs, 0):
		return fmt.Errorf("its share of processors is %v: choose 0, which is no limit, or more", s.CPUs)
	}
	for i, f := range s.Files {
		if f == nil {
			return fmt.Errorf("its descriptor %d is missing", i+3)
		}
	}
	for _, a := range slices.Concat(s.Args, s.Env, s.ReadWrite, s.Private, s.Hide) {
		if strings.ContainsRune(a, 0) || !utf8.ValidString(a) {
			return fmt.Errorf("%q holds a zero byte or is no UTF-8", a)
		}
	}
	return nil
}

// attr is how the process is cloned.
func (s *Spec) attr() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if s.Mode != Strict {
		return a
	}
	a.Cloneflags = sys.NamespacesAll
	if !s.Network {
		a.Cloneflags |= sys.NamespaceNet
	}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		// Privileges over its own namespaces only, until the walls stand.
		a.Cloneflags |= sys.NamespaceUser
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		a.AmbientCaps = []uintptr{sys.CapSysAdmin, sys.CapSetpcap}
	}
	return a
}

// resolve gives directories by the names that no link changes.
func resolve(what string, lists ...[]string) ([]string, error) {
	var out []string
	for _, list := range lists {
		for _, dir := range list {
			if !filepath.IsAbs(dir) {
				return nil, fmt.Errorf("%s %q: give the whole path", what, dir)
			}
			real, err := filepath.EvalSymlinks(dir)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
			if real == "/" {
				return nil, fmt.Errorf("%s %s: the whole file system is no sandbox; name a directory in it, or set sandbox = \"off\"", what, dir)
			}
			out = append(out, real)
		}
	}
	return out, nil
}

// existing leaves out what is not there.
func existing(paths []string) []string {
	var out []string
	for _, p := range paths {
		if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
			out = append(out, p)
		}
	}
	return out
}

// homes are where people keep what is nobody's business: keys, histories.
func homes() []string {
	dirs := []string{"/home", "/root"}
	if h, err := os.UserHomeDir(); err == nil && filepath.IsAbs(h) && filepath.Clean(h) != "/" {
		dirs = append(dirs, h)
	}
	return dirs
}
