package scenario

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// qsdLimit bounds the start of qemu-storage-daemon.
const qsdLimit = time.Minute

// QSD serves disks with qemu-storage-daemon, a peer: each disk a sparse file, a
// process and a socket of its own.
func QSD(t testing.TB, size int64) Disk {
	t.Helper()
	return startQSD(t, size).disk()
}

type qsd struct {
	t      testing.TB
	dir    string
	image  string
	size   int64
	filter string // a block driver with options that is put before the image
	proc   *nbdtest.Process
}

// startQSD starts a daemon; filter are a block driver's options, e.g.
// "driver=blkdebug,…", or nothing.
func startQSD(t testing.TB, size int64, filter ...string) *qsd {
	t.Helper()
	q := &qsd{t: t, dir: nbdtest.SocketDir(t), image: nbdtest.Image(t, size, nil), size: size, filter: "driver=raw,discard=unmap,file=file0"}
	if len(filter) > 0 {
		q.filter = filter[0] + ",discard=unmap,image=file0"
	}
	q.start()
	return q
}

func (q *qsd) disk() Disk {
	return Disk{
		Socket: filepath.Join(q.dir, "disk"), Size: q.size, Queues: queues, Discard: true, Through: true,
		Serial:  "vhost_user_blk", // it gives all its disks this one
		Restart: q.restart,        // and no Resize: it does not tell its front-end
		Kills:   5,                // it is the scenario that is tested here
	}
}

// start starts the daemon and waits for its pidfile, which it writes when its
// socket accepts.
func (q *qsd) start() {
	q.t.Helper()
	pidfile := filepath.Join(q.dir, "pid")
	q.proc = nbdtest.StartProcess(q.t, "qemu-storage-daemon",
		"--pidfile", pidfile,
		"--blockdev", "driver=file,node-name=file0,discard=unmap,filename="+q.image,
		"--blockdev", q.filter+",node-name=disk0",
		"--export", "type=vhost-user-blk,id=export0,node-name=disk0,writable=on,num-queues="+strconv.Itoa(queues)+
			",addr.type=unix,addr.path="+filepath.Join(q.dir, "disk"))
	for end := time.Now().Add(qsdLimit); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(pidfile); err == nil {
			return
		}
		select {
		case <-q.proc.Done():
			q.t.Fatalf("qemu-storage-daemon ended: %s", q.proc.Output())
		default:
		}
		if time.Now().After(end) {
			q.t.Fatalf("qemu-storage-daemon is not ready after %v: %s", qsdLimit, q.proc.Output())
		}
	}
}

// restart is kill -9 and a start; the files that a killed one leaves go first.
func (q *qsd) restart() {
	q.t.Helper()
	q.proc.Kill()
	for _, name := range []string{"pid", "disk"} {
		os.Remove(filepath.Join(q.dir, name))
	}
	q.start()
}
