package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// Recovery is what becomes of a ublk device whose engine has died, and of the
// requests that it had taken.
type Recovery string

// The choices of recovery.
const (
	RecoveryReissue Recovery = "reissue" // the next engine is given them again
	RecoveryFail    Recovery = "fail-io" // they fail, and so does what comes before the next engine
	RecoveryNone    Recovery = "none"    // the device goes with its engine
)

// Copy is how the payload of a ublk device's requests comes into the engine and
// back.
type Copy string

// The choices of copy.
const (
	CopyAuto    Copy = "auto"     // the best that this kernel and the volume have
	CopyKernel  Copy = "kernel"   // by the driver; each of queues x depth has a buffer of max_io
	CopyGetData Copy = "get-data" // by the driver, when the engine has given it a buffer; queues have memory that requests share
	CopyUser    Copy = "user"     // by the engine; the same
	CopyZero    Copy = "zero"     // not at all where the volume can do without, else as "user"
)

// OnStop is what becomes of a device of this host when the engine is stopped in
// order. After a kill it always stays.
type OnStop string

// The choices of on_stop.
const (
	OnStopKeep   OnStop = "keep"   // it stays, its requests wait for the next engine
	OnStopRemove OnStop = "remove" // it goes, also from under those who use it
)

// AnyDevice stands for a number that the kernel chooses.
const AnyDevice = -1

// Defaults and limits of exports that are devices of this host.
const (
	MaxDevice              = 1<<20 - 1 // of the kernel's minor numbers
	DefaultDepth           = 64
	MaxDepth               = 4096 // UBLK_MAX_QUEUE_DEPTH
	DefaultMaxIO           = 256 * KiB
	LeastMaxIO             = 4 * KiB
	MostMaxIO              = 16 * MiB
	MostBuffers            = 64 * GiB // of a queue; what all its requests could need is the limit that counts
	MaxDeviceConnections   = 16
	DefaultDeadConnTimeout = 10 * time.Minute
	// RequestMargin is what a kernel waits for an answer beyond a volume's
	// timeout and fence, after which the volume has given one.
	RequestMargin = 5 * time.Second
)

// deviceKeys reads what exports have that are devices of this host.
func (r *reader) deviceKeys(s *section, e *Export) {
	e.Device = s.integer("device", AnyDevice, 0, MaxDevice)
	e.Depth = s.integer("depth", DefaultDepth, 1, MaxDepth)
	e.MaxIO = s.size("max_io", DefaultMaxIO, LeastMaxIO, MostMaxIO)
	if e.MaxIO%LeastMaxIO != 0 {
		s.bad("max_io", FormatSize(e.MaxIO)+" is no multiple of "+FormatSize(LeastMaxIO), `write a round size, as in "256KiB"`)
	}
	e.Recovery = choice(s, "recovery", RecoveryReissue, []Recovery{RecoveryReissue, RecoveryFail, RecoveryNone})
	e.Copy = choice(s, "copy", CopyAuto, []Copy{CopyAuto, CopyKernel, CopyGetData, CopyUser, CopyZero})
	e.Buffers = s.size("buffers", 0, LeastMaxIO, MostBuffers)
	e.Unprivileged = s.boolean("unprivileged")
	e.OnStop = choice(s, "on_stop", OnStopKeep, []OnStop{OnStopKeep, OnStopRemove})
	e.Connections = s.integer("connections", 1, 1, MaxDeviceConnections)
	e.DeadConnTimeout = s.duration("dead_conn_timeout", DefaultDeadConnTimeout, "10m", MaxTimeout)
	e.RequestTimeout = s.duration("request_timeout", 0, "100s", 3*MaxTimeout)
}

// isDevice tells a frontend that makes a device of this host.
func (f Frontend) isDevice() bool { return f == FrontendUblk || f == FrontendNBDKernel }

// checkDevice checks what of a device does not go together, and of frontend
// nbd-kernel, whether it fits its volume, and fills in the default of
// request_timeout. A kernel that gives up a request
// before the volume has ended it would send a write again while the first copy
// is still under way, and lose the error of a flush (DESIGN, chapter 2, rules 1
// and 3).
func (r *reader) checkDevice(s *section, e *Export, v *Volume) {
	if e.Unprivileged && e.Recovery != RecoveryNone && e.Frontend == FrontendUblk {
		s.bad("unprivileged", "and recovery "+quote(string(e.Recovery))+" exclude each other: the kernel does not let such a device be recovered",
			`write recovery = "none", or leave unprivileged out`)
	}
	if e.Frontend == FrontendUblk {
		checkCopy(s, e)
	}
	if e.Frontend != FrontendNBDKernel {
		return
	}
	least := max(v.Timeout+v.Fence, time.Second)
	if !s.has("request_timeout") {
		e.RequestTimeout = least + RequestMargin
		return
	}
	if e.RequestTimeout < least {
		s.bad("request_timeout", fmt.Sprintf("of %v is less than timeout and fence of volume %s together, %v: the kernel would send requests again that the volume still works on",
			e.RequestTimeout, quote(v.Name), least), fmt.Sprintf("write at least %q, or leave it out for %v more", least.String(), RequestMargin))
	}
}

// checkCopy checks what of copy and buffers does not go together.
func checkCopy(s *section, e *Export) {
	if (e.Copy == CopyUser || e.Copy == CopyZero) && e.Unprivileged {
		s.bad("copy", quote(string(e.Copy))+" is not for an unprivileged device: the kernel lets only privileged servers at payload",
			`write "auto", "kernel" or "get-data"`)
	}
	if !s.has("buffers") {
		return
	}
	// A request has a power of two, and no queue more than all its requests.
	piece := uint64(LeastMaxIO)
	for piece < e.MaxIO {
		piece *= 2
	}
	switch all := uint64(e.Depth) * piece; {
	case e.Copy == CopyAuto, e.Copy == CopyKernel:
		s.bad("buffers", "is for requests that share memory, which those of copy "+quote(string(e.Copy))+" do not",
			`leave it out, or write copy = "user", "get-data" or "zero"`)
	case e.Buffers < e.MaxIO:
		s.bad("buffers", FormatSize(e.Buffers)+" is less than the largest request, max_io = "+FormatSize(e.MaxIO), "write more")
	case e.Buffers > all:
		s.bad("buffers", fmt.Sprintf("%s is more than %d requests of %s could need", FormatSize(e.Buffers), e.Depth, FormatSize(e.MaxIO)),
			"write at most "+quote(FormatSize(all)))
	}
}

// NBDKernelSocket is where the engine serves what frontend nbd-kernel hands to
// the kernel: in the state directory, which nobody else enters.
func (c *Config) NBDKernelSocket() Address {
	return Address{"unix", filepath.Join(c.Engine.StateDir, nbdKernelSocket)}
}

const nbdKernelSocket = "nbd-kernel.sock"

// claimNBDKernel takes that socket's address, if an export needs it.
func (r *reader) claimNBDKernel(claims map[Address]claim) {
	needs := func(e Export) bool { return e.Frontend == FrontendNBDKernel }
	if r.noStateDir || !slices.ContainsFunc(r.cfg.Exports, needs) {
		return
	}
	a, e := r.cfg.NBDKernelSocket(), r.cfg.Engine
	if len(a.Addr) > maxUnixPath {
		r.problem(e.LineOf("state_dir"), e.KeyOf("state_dir"),
			fmt.Sprintf("engine: state_dir makes the path of a socket for frontend %q %d bytes long, a Unix socket's has at most %d",
				FrontendNBDKernel, len(a.Addr), maxUnixPath), "choose a shorter one")
	}
	claims[a] = claim{who: "frontend " + quote(string(FrontendNBDKernel))}
}

// checkDevices finds exports that want one device.
func (r *reader) checkDevices() {
	type device struct {
		frontend Frontend
		number   int
	}
	claims := map[device]claim{}
	for i, s := range r.exports {
		e := &r.cfg.Exports[i]
		if !e.Frontend.isDevice() || e.Device == AnyDevice {
			continue
		}
		d := device{e.Frontend, e.Device}
		if before, taken := claims[d]; taken {
			s.bad("device", fmt.Sprintf("%d is taken by %s", e.Device, before.where()),
				"choose another one, or leave it out: the kernel chooses then")
			continue
		}
		claims[d] = claim{who: e.Label(), line: s.LineOf("device")}
	}
}
