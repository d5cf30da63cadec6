package nbdkernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Found is an NBD device of this host, or the memory of one.
type Found struct {
	Number      int    // AnyNumber: only remembered; the kernel has no such device
	Path        string // /dev/nbdN, "" where there is none
	State       string // connected, or gone where there is none
	Name        string // the export's that it is remembered for; "" for another program's device
	Volume      string // its name
	Identity    string // what the volume said of itself
	Size        uint64 // bytes
	Connections int    // 0: not known
	Recoverable bool   // an engine with that export goes on serving it
}

// The states of Found.
const (
	StateConnected = "connected"
	StateGone      = "gone"
)

// List gives the devices that are connected, whoever did so, and those that are
// remembered in the state directory and are not there.
func List(ctx context.Context, stateDir string) ([]Found, error) {
	k, err := openDriver(ctx)
	if err != nil && !errors.Is(err, ErrNoDriver) {
		return nil, err
	}
	var numbers []int
	if err == nil {
		if numbers, err = k.connected(ctx); err != nil {
			return nil, err
		}
	}
	return list(k, numbers, records(stateDir)), nil
}

func list(k *driver, numbers []int, known []*record) (all []Found) {
	slices.Sort(numbers)
	there := map[string]bool{}
	for _, n := range numbers {
		f := Found{Number: n, Path: devicePath(n), State: StateConnected, Size: k.size(n)}
		backend := k.backend(n)
		for _, r := range known {
			if r.Backend == backend {
				there[backend] = true
				f.describe(r)
				f.Recoverable = true
			}
		}
		all = append(all, f)
	}
	for _, r := range known {
		if !there[r.Backend] {
			f := Found{Number: AnyNumber, State: StateGone, Size: r.Size}
			f.describe(r)
			all = append(all, f)
		}
	}
	return all
}

func (f *Found) describe(r *record) {
	f.Name, f.Volume, f.Identity, f.Connections = r.Name, r.Volume, r.Identity, r.Connections
}

// Delete disconnects a device, whoever made it, and forgets it. What uses it
// gets errors.
func Delete(ctx context.Context, stateDir string, number int) error {
	k, err := openDriver(ctx)
	if err != nil {
		return err
	}
	numbers, err := k.connected(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(numbers, number) {
		return fmt.Errorf("%s is not connected", devicePath(number))
	}
	backend := k.backend(number)
	if err := k.disconnect(ctx, number); err != nil {
		return err
	}
	for _, r := range records(stateDir) {
		if r.Backend == backend {
			return forget(stateDir, r.Name)
		}
	}
	return nil
}

// Forget removes the memory of a device that the kernel does not have any more.
func Forget(stateDir, name string) error { return forget(stateDir, name) }

// Report says what this kernel can do.
type Report struct {
	Usable  bool     // devices can be made, by this process
	Missing []string // what is in the way, each with how to mend it
	Devices int      // that are connected
}

// Probe looks at what there is, without making anything.
func Probe(ctx context.Context) (r Report) {
	k, err := openDriver(ctx)
	switch {
	case errors.Is(err, ErrNoDriver):
		r.Missing = append(r.Missing, "the NBD driver is not there: modprobe nbd (a kernel with CONFIG_BLK_DEV_NBD)")
		return r
	case err != nil:
		r.Missing = append(r.Missing, err.Error())
		return r
	}
	numbers, err := k.connected(ctx)
	if err != nil {
		r.Missing = append(r.Missing, fmt.Sprintf("%v: run the engine as root, or give it CAP_SYS_ADMIN (this is user %d)", err, os.Geteuid()))
		return r
	}
	r.Devices = len(numbers)
	// The driver asks for the right when a device is made, not before.
	status, err := os.ReadFile("/proc/self/status")
	if err == nil && !mayAdminister(string(status)) {
		r.Missing = append(r.Missing, fmt.Sprintf("this user (%d) may not make devices: run the engine as root, or give it CAP_SYS_ADMIN", os.Geteuid()))
		return r
	}
	r.Usable = true
	return r
}

// capSysAdmin is the capability's number (linux/capability.h).
const capSysAdmin = 21

// mayAdminister looks for it among those in effect (proc(5), status).
func mayAdminister(status string) bool {
	_, rest, ok := strings.Cut(status, "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	caps, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return !ok || err != nil || caps>>capSysAdmin&1 == 1
}
