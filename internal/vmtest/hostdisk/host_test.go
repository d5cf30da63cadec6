package hostdisk_test

import (
	"context"
	"testing"

	"blockengine/internal/vmtest"
	vmguest "blockengine/internal/vmtest/guest"
)

// TestStableKernel has the engine serve the long-term kernel, by both frontends.
func TestStableKernel(t *testing.T) {
	h := newHost(t, vmguest.Stable)
	for _, k := range kinds {
		h.run("Device", k, device)
		h.run("Recovery", k, recovery)
		h.run("Server", k, server)
	}
	h.run("Limits", ublkKind, limits)
	h.run("Users", ublkKind, users)
}

// TestNewestKernel has it serve the newest kernel that Debian offers: what older
// ones lack, and what changed underneath.
func TestNewestKernel(t *testing.T) {
	h := newHost(t, vmguest.Newest)
	h.run("Recovery", ublkKind, recovery)
	h.run("FailIO", ublkKind, failIO)
	h.run("Growth", ublkKind, growth)
	h.run("ZeroCopy", ublkKind, zeroCopy)
	h.run("Users", ublkKind, users)
}

// host is a guest that tests use one after the other: booting takes longer than
// many of them. One in which something failed is not used again.
type host struct {
	t      *testing.T // whose the guest is
	kernel vmguest.Kernel
	vm     *vmtest.VM // nil: the next test boots one
}

func newHost(t *testing.T, k vmguest.Kernel) *host {
	t.Helper()
	vmtest.Require(t)
	return &host{t: t, kernel: k}
}

// run runs a test for a frontend whose module is not loaded. It must leave
// nothing that holds the module.
func (h *host) run(name string, k kind, test func(g *guest)) {
	h.t.Helper()
	if h.vm == nil {
		h.vm = boot(h.t, h.kernel, nil)
	}
	h.t.Run(name+"/"+k.frontend, func(t *testing.T) {
		g := &guest{VM: h.vm, kind: k, kernel: h.kernel, t: t}
		g.Lend(t)
		t.Cleanup(func() { h.judge(g) })
		g.MustRun("rm -rf /run/state* /run/e.* /run/*.out /run/*.toml /run/stop /tmp/*")
		test(g)
		g.none()
		g.sh("modprobe -r %s", g.module)
		g.checkLog()
	})
}

// judge ends a guest in which a test has failed.
func (h *host) judge(g *guest) {
	if g.t.Failed() {
		h.vm = nil
		g.tell()
		g.Close()
	}
}

// tell logs what the engine said, and the kernel.
func (g *guest) tell() {
	out, _ := g.Run(context.Background(), "tail -n 60 /run/e.log; tail -n 20 /run/nk.log; dmesg | tail -n 40")
	g.t.Logf("the engine said, and the kernel:\n%s", out)
}
