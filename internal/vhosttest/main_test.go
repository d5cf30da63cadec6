package vhosttest

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// qsd is qemu-storage-daemon with one vhost-user-blk export of one node.
type qsd struct {
	*nbdtest.Process
	t      testing.TB
	socket string
	args   []string
}

// startQSD serves a node, e.g. "driver=null-co,size=1048576", writable with two
// queues, or what more says.
func startQSD(t testing.TB, node, more string) *qsd {
	t.Helper()
	nbdtest.Require(t, "qemu-storage-daemon", "qemu-system-common")
	q := &qsd{t: t, socket: filepath.Join(nbdtest.SocketDir(t), "vu")}
	q.args = []string{"--blockdev", node + ",node-name=disk", "--export",
		"type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=" + q.socket + ",num-queues=2,writable=on" + more}
	q.Process = nbdtest.StartProcess(t, "qemu-storage-daemon", q.args...)
	return q
}

// restart kills it and starts another one.
func (q *qsd) restart() {
	q.t.Helper()
	q.Kill()
	q.Process = nbdtest.StartProcess(q.t, "qemu-storage-daemon", q.args...)
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, o Options) *Frontend {
	t.Helper()
	if o.Redial == 0 {
		o.Redial = 5 * time.Millisecond
	}
	f, err := Open(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const mib = 1 << 20
