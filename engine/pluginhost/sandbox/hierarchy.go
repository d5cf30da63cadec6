package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"blockengine/engine/sys"
)

// hierarchy is where the engine may make cgroups.
type hierarchy struct {
	dir         string
	space       string   // this pid namespace's number
	controllers []string // that groups below dir have
}

// groupsName is the group that holds all processes' groups.
const groupsName = "blockengine"

// leafName is the group that the engine itself moves to: a group that hands
// controllers on must hold no process (cgroups(7), no internal processes).
const leafName = "engine"

// wanted are the controllers that limits are made of.
var wanted = []string{"cpu", "memory", "pids"}

// groupHome finds the place, once.
var groupHome = sync.OnceValues(func() (*hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mount, own, err := ownGroup(string(mounts), string(self))
	if err != nil {
		return nil, err
	}
	return openHierarchy(mount, own)
})

// ownGroup gives the directory where cgroup v2 is mounted and that of the
// group which the engine is in.
func ownGroup(mountinfo, cgroups string) (mount, own string, err error) {
	path := "-"
	for line := range strings.Lines(cgroups) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			path = rest
		}
	}
	lines := bufio.NewScanner(strings.NewReader(mountinfo))
	for lines.Scan() {
		// 36 35 98:0 ROOT MOUNTPOINT OPTIONS… - TYPE SOURCE OPTIONS
		head, tail, ok := strings.Cut(lines.Text(), " - ")
		f := strings.Fields(head)
		if !ok || len(f) < 5 || !strings.HasPrefix(tail, "cgroup2 ") || strings.Contains(f[4], `\`) || strings.HasPrefix(f[3], "/..") {
			continue
		}
		if rel, err := filepath.Rel(f[3], path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return f[4], filepath.Join(f[4], rel), nil
		}
	}
	return "", "", errors.New("cgroup v2 is not mounted where this process could see its own group")
}

// openHierarchy makes the group for groups: below the engine's own, if that was
// left to the engine (systemd: Delegate=yes), else, for root, at the top.
func openHierarchy(mount, own string) (*hierarchy, error) {
	base, above := own, filepath.Dir(own)
	switch {
	case filepath.Base(own) == leafName && delegated(above): // where an engine before this one went
		base = above
	case delegated(own):
	case os.Geteuid() != 0:
		return nil, fmt.Errorf("the engine's own group %s was not left to its user; with systemd, set Delegate=yes for its unit", own)
	case delegated(above): // systemd's DelegateSubgroup=
		base = above
	default:
		base = mount
	}
	if base == own {
		if err := leave(own); err != nil {
			return nil, err
		}
	}
	if err := empty(base); err != nil {
		return nil, err
	}
	dir := filepath.Join(base, groupsName)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cannot make cgroups: %w", err)
	}
	if !sys.IsCgroup2(dir) {
		return nil, fmt.Errorf("%s is no cgroup", dir)
	}
	for _, c := range wanted {
		if handOn(base, c) == nil {
			_ = handOn(dir, c)
		}
	}
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return nil, err
	}
	_, space, err := here()
	if err != nil {
		return nil, err
	}
	return &hierarchy{dir: dir, space: strings.Trim(space, "pid:[]"), controllers: strings.Fields(string(have))}, nil
}

// sweep removes groups of engines that died before they could note what is in
// them: nothing, or a shim that ends without orders. It looks at those of this
// pid namespace only: of others nobody knows whether their engine lives.
func (h *hierarchy) sweep() {
	dirs, _ := filepath.Glob(filepath.Join(h.dir, "*-"+h.space+"-*-*"))
	for _, dir := range dirs {
		parts := strings.Split(filepath.Base(dir), "-")
		pid, err := strconv.Atoi(parts[len(parts)-2])
		if err != nil {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, os.ErrNotExist) {
			_ = removeGroup(dir)
		}
	}
}

// top says whether a group is the machine's first, for which there are no rules.
func top(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cgroup.type"))
	return errors.Is(err, os.ErrNotExist)
}

// empty says why nothing can be handed on to groups below dir: a controller
// that is handed on beside processes turns the group and all below into ones
// that take threads only.
func empty(dir string) error {
	if top(dir) {
		return nil
	}
	in, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err == nil && len(in) > 0 {
		err = fmt.Errorf("there are other processes beside the engine in its group %s; start it in one of its own, with systemd as a service with Delegate=yes", dir)
	}
	return err
}

// delegated says whether a group was left to this engine: systemd marks it, or
// it belongs to a user who is not root.
func delegated(dir string) bool {
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		b := make([]byte, 8)
		if n, err := syscall.Getxattr(dir, name, b); err == nil && string(b[:n]) == "1" {
			return true
		}
	}
	return os.Geteuid() != 0 && syscall.Access(dir, 2) == nil
}

// handOn gives the groups below dir a controller.
func handOn(dir, controller string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil || !slices.Contains(strings.Fields(string(have)), controller) {
		return err // what is not there cannot be handed on
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
}

// leave moves the engine to a group of its own below the one it is in.
func leave(own string) error {
	if top(own) {
		return nil
	}
	leaf := filepath.Join(own, leafName)
	err := os.Mkdir(leaf, 0o755)
	if err == nil || errors.Is(err, os.ErrExist) {
		err = os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		return fmt.Errorf("the engine cannot move to a group below its own: %w", err)
	}
	return nil
}
