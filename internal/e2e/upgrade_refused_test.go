package e2e_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// upgradable is an engine under a load that notices everything, and what it
// runs.
type upgradable struct {
	*engine
	t      *testing.T
	server *nbdtest.Server
	load   *modelLoad
}

// gentle is the pause of a load that goes on for long: its history is to be
// judged in the end.
const gentle = time.Millisecond

func startUpgradable(t *testing.T, export string, flags uint16, neg nbdtest.Negotiation) *upgradable {
	t.Helper()
	s, e := onServer(t, export, flags, neg, durable)
	return &upgradable{e, t, s, startModel(t, e, "disk", 4, loadOptions{pause: gentle})}
}

// refused wants an order to be refused, for a reason with a word in it, and to
// change nothing.
func (u *upgradable) refused(word string, args ...string) {
	u.t.Helper()
	before := u.volume("disk")
	u.refuse(word, args...)
	if v := u.volume("disk"); v.Version != before.Version || v.Hash != before.Hash {
		u.t.Errorf("after %v was refused the volume runs version %s", args, v.Version)
	}
	u.load.goesOn(100)
}

// end wants the load to have felt nothing, and an upgrade to be possible after
// all that was refused.
func (u *upgradable) end() {
	u.t.Helper()
	u.upgrade(built.nbd2)
	u.load.goesOn(100)
	u.runs("disk", version2)
	u.load.end()
	if n := u.load.failures.Load(); n != 0 {
		u.t.Errorf("%d requests failed", n)
	}
	u.unhurt("disk")
}

// otherABI gives a module that was built for another major version of the
// interface: be_abi of a hand-written one gives 2.0.
func otherABI(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(badModule("good"))
	must(t, err)
	// (i32.const 0x10000) and end, as be_abi's body has them.
	is, be := []byte("\x06\x00\x41\x80\x80\x04\x0b"), []byte("\x06\x00\x41\x80\x80\x08\x0b")
	if bytes.Count(b, is) != 1 {
		t.Fatal("be_abi is not found in the module")
	}
	path := filepath.Join(t.TempDir(), "abi2.wasm")
	must(t, os.WriteFile(path, bytes.Replace(b, is, be, 1), 0o600))
	return path
}

// TestUpgradeRefused: a file, a manifest or an order that is wrong changes
// nothing.
func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	u := startUpgradable(t, "disk", nbdtest.DefaultFlags, nbdtest.Negotiation{})
	text := filepath.Join(t.TempDir(), "text.wasm")
	must(t, os.WriteFile(text, []byte("no module"), 0o600))
	for _, c := range []struct {
		word string
		args []string
	}{
		{"sha-256", []string{built.nbd2, "--sha256", strings.Repeat("0", 64)}},
		{"no such file", []string{filepath.Join(t.TempDir(), "none.wasm")}},
		{"no webassembly module", []string{text}},
		{"version 2.0 of the plugin interface", []string{otherABI(t)}},
		{"iscsi", []string{badManifest(t, "other-name")}},
		{"export is no option", []string{badManifest(t, "other-option")}},
		{"no option token", []string{badManifest(t, "more-required")}},
		{"no volume \"nowhere\"", []string{built.nbd2, "--volume", "nowhere"}},
	} {
		u.refused(c.word, append([]string{"upgrade", "nbd"}, c.args...)...)
	}
	u.refused("no plugin \"nope\"", "upgrade", "nope", built.nbd2)
	u.refused("no generation to go back to", "rollback", "nbd")
	u.end()
}

// TestUpgradeRefusedByTrial: what a login beside the old version shows, and what
// only the handover itself does.
func TestUpgradeRefusedByTrial(t *testing.T) {
	t.Parallel()
	faults := []struct {
		fault, word, method string
	}{
		{"fail-login", "this version cannot log in", ""},
		{"trap-login", "trapped", ""},
		{"lie-size", "shrunk", ""},
		{"lie-block", "block size", ""},
		{"lie-identity", "another disk", ""},
		{"fail-resume", "this version cannot log in", "handover"},
		{"trap-resume", "trapped", "handover"},
		{"hang-resume", "does not answer", "handover"},
		{"lie-resumed-size", "shrunk", "handover"},
		{"lie-resumed-block", "block size", "handover"},
		{"lie-resumed-identity", "another disk", "handover"},
	}
	var exports []nbdtest.Export
	for _, f := range faults {
		exports = append(exports, exportOf(f.fault, nbdtest.DefaultFlags))
	}
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: exports})
	c := config{engine: "reactors = 2"}
	for _, f := range faults {
		c.volumes = append(c.volumes, nbdOn(f.fault, s, f.fault, durable))
	}
	e := startEngine(t, c)
	for _, f := range faults {
		e.waitUp(f.fault)
		m := startModel(t, e, f.fault, 2, loadOptions{pause: gentle})
		args := []string{"upgrade", "nbd", built.bad, "--volume", f.fault}
		if f.method != "" {
			args = append(args, "--method", f.method)
		}
		e.refuse(f.word, args...)
		e.runs(f.fault, version1)
		m.goesOn(50)
		m.end()
		if n := m.failures.Load(); n != 0 {
			t.Errorf("%d requests failed", n)
		}
	}
	e.upgrade(built.nbd2)
	for _, f := range faults {
		e.runs(f.fault, version2)
		e.unhurt(f.fault)
	}
}

// TestUpgradeFallsBackOnAnotherMethod: a version that cannot resume what the old
// one has left is no bad version; it logs in.
func TestUpgradeFallsBackOnAnotherMethod(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flags  uint16
		neg    nbdtest.Negotiation
		method string
	}{
		"several connections": {nbdtest.DefaultFlags, nbdtest.Negotiation{}, "second-session"},
		"one client":          {single, oneClient, "serial"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := startUpgradable(t, "fail-resume", c.flags, c.neg)
			wantMethod(t, u.upgrade(built.bad), c.method)
			u.runs("disk", versionBad)
			u.load.goesOn(100)
			u.rollback()
			u.runs("disk", version1)
			u.end()
		})
	}
}

// TestUpgradeRefusedByLogin: with a server for one client a version can be tried
// only when the old one has left. One that cannot log in costs a pause, and the
// old version comes back.
func TestUpgradeRefusedByLogin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ fault, method string }{
		{"fail-login", "handover"}, {"fail-login", "serial"}, {"fail-login", ""},
		{"lie-size", "handover"}, {"lie-size", "serial"}, {"hang-login", "handover"},
	} {
		t.Run(c.fault+", "+c.method, func(t *testing.T) {
			t.Parallel()
			u := startUpgradable(t, c.fault, single, oneClient)
			args := []string{"upgrade", "nbd", built.bad}
			if c.method != "" {
				args = append(args, "--method", c.method)
			}
			u.refused("not taken over", args...)
			u.end()
		})
	}
}

// TestUpgradeRefusedByHangingLogin: the login never ends. Where it is tried
// beside the old version, that does not even pause; on a server for one client it
// comes back when the login has had its time.
func TestUpgradeRefusedByHangingLogin(t *testing.T) {
	t.Parallel()
	beside := startUpgradable(t, "hang-login", nbdtest.DefaultFlags, nbdtest.Negotiation{})
	alone := startUpgradable(t, "hang-login", single, oneClient)
	order := alone.order("upgrade", "nbd", built.bad, "--method", "serial", "--watch", "1m")
	beside.refused("was tried and does not work", "upgrade", "nbd", built.bad)
	if err := order.wait(); err == nil {
		t.Error("a version that never logs in was kept")
	} else {
		t.Log(err)
	}
	alone.runs("disk", version1)
	alone.load.goesOn(100)
	beside.end()
	alone.end()
}

// TestUpgradeRefusedByDrain: what is outstanding does not come to its end in
// time. Nothing is cut: when the server goes on every request is answered.
func TestUpgradeRefusedByDrain(t *testing.T) {
	t.Parallel()
	for name, c := range cutovers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := startUpgradable(t, "disk", c.flags, c.neg)
			release := u.server.StallReplies()
			time.AfterFunc(30*time.Second, release)
			u.refuse("outstanding", "upgrade", "nbd", built.nbd2, "--drain", "300ms", "--method", c.method)
			release()
			u.runs("disk", version1)
			u.load.goesOn(100)
			u.end()
		})
	}
}

// TestUpgradeRefusedMeanwhile: one at a time.
func TestUpgradeRefusedMeanwhile(t *testing.T) {
	t.Parallel()
	u := startUpgradable(t, "disk", single, oneClient)
	release := u.server.StallReplies()
	time.AfterFunc(30*time.Second, release)
	first := u.order("upgrade", "nbd", built.nbd2, "--drain", "30s", "--watch", "0s")
	if !first.waitPhase("takeover") {
		t.Errorf("the first upgrade does not come to the takeover: %s", first.out.String())
	}
	u.refuse("under way", "upgrade", "nbd", built.nbd2)
	release()
	if err := first.wait(); err != nil {
		t.Error(err)
	}
	u.runs("disk", version2)
	u.load.goesOn(100)
	u.rollback()
	u.end()
}

// TestUpgradeRefusedForStores: what does its own I/O cannot be replaced.
func TestUpgradeRefusedForStores(t *testing.T) {
	t.Parallel()
	e := startEngine(t, config{volumes: []volume{{name: "disk", plugin: "memory", options: "size = \"1MiB\""}}})
	e.refuse("memory", "upgrade", "memory", built.nbd2)
	e.refuse("memory", "rollback", "memory")
}

// TestUpgradeRefusedByFullDisk: there is no room for the compiled module.
func TestUpgradeRefusedByFullDisk(t *testing.T) {
	t.Parallel()
	needRoot(t)
	u := startUpgradable(t, "disk", nbdtest.DefaultFlags, nbdtest.Negotiation{})
	cache := filepath.Join(u.state, "cache")
	must(t, syscall.Mount("tmpfs", cache, "tmpfs", 0, "size=256k,mode=0700"))
	full := true
	free := func() {
		if full {
			must(t, syscall.Unmount(cache, syscall.MNT_DETACH))
		}
		full = false
	}
	t.Cleanup(free)
	u.refused("no space left", "upgrade", "nbd", built.nbd2)
	free()
	u.end()
}
