package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// A client that is there when the signal comes has its replies and then the
// end; what it wrote is on the disk.
func TestDrainWithClients(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		disk := nbdtest.NewDisk(1 << 20)
		srv := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Name: "disk", Disk: disk}}})
		s := newSite(t, "HEAD\n"+nbdVolume("unix:"+srv.Addr()))
		r := s.run()
		r.until("ready")
		c := s.client("far")
		if err := c.Write(0, bytes.Repeat([]byte("z"), 4096), 0); err != nil {
			t.Fatal(err)
		}
		release := srv.StallReplies()
		if _, err := c.Send(nbdtest.Request{Op: nbdtest.CmdRead, Offset: 0, Length: 4096}); err != nil {
			t.Fatal(err)
		}
		nbdtest.WaitFor(t, "the read to come to the server", func() bool {
			return srv.Count(nbdtest.Op(nbdtest.CmdRead)) > 0
		})
		r.signal(sig)
		release()
		if reply, err := c.Recv(); err != nil || !bytes.Equal(reply.Data, bytes.Repeat([]byte("z"), 4096)) {
			t.Errorf("%v: the read's reply: %v", sig, err)
		}
		if err := c.ExpectClosed(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
		if status := r.end(); status != exitDone {
			t.Errorf("%v: exit status %d", sig, status)
		}
		stable := make([]byte, 4096)
		if disk.ReadStable(stable, 0); stable[0] != 'z' {
			t.Errorf("%v: the server was not told to flush", sig)
		}
		if left, _ := filepath.Glob(s.path("run/*.sock")); len(left) > 0 {
			t.Errorf("%v: left behind: %v", sig, left)
		}
	}
}

// A second signal does not wait for a server that holds a write.
func TestSecondSignalCutsShort(t *testing.T) {
	t.Parallel()
	srv := nbdtest.StartServer(t, nbdtest.ServerOptions{BadClients: true,
		Exports: []nbdtest.Export{{Name: "disk", Disk: nbdtest.NewDisk(1 << 20)}}})
	s := newSite(t, "HEAD\n"+nbdVolume("unix:"+srv.Addr()))
	r := s.run()
	r.until("ready")
	held := srv.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, false, nbdtest.RST)
	if _, err := s.client("far").Send(nbdtest.Request{Op: nbdtest.CmdWrite, Data: make([]byte, 4096)}); err != nil {
		t.Fatal(err)
	}
	held.Wait(t, 1)
	r.signal(syscall.SIGTERM)
	nbdtest.WaitFor(t, "the engine to drain", func() bool { return strings.Contains(r.stderr.String(), "msg=draining") })
	r.signal(syscall.SIGTERM)
	if status := r.end(); status != exitFailed {
		t.Errorf("exit status %d", status)
	}
	if !strings.Contains(r.stderr.String(), "ended before everything was drained") {
		t.Error("the engine does not say what it has left undone")
	}
	held.Release()
}

func TestServiceManagerIsTold(t *testing.T) {
	dir := nbdtest.SocketDir(t)
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport)
	r := s.run("NOTIFY_SOCKET=" + filepath.Join(dir, "n"))
	want := func(state string) {
		b := make([]byte, 64)
		n, err := l.Read(b)
		if err != nil || string(b[:n]) != state {
			t.Errorf("told %q, %v, want %q", b[:n], err, state)
		}
	}
	want("READY=1")
	r.stop()
	want("STOPPING=1")
}

// A reader of stdout that is gone is no reason to end.
func TestClosedStdout(t *testing.T) {
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport)
	r := &server{site: s, lines: make(chan string), stderr: &lockedBuffer{}}
	close(r.lines)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = pr.Close()
	r.start(pw)
	_ = pw.Close()
	nbdtest.WaitFor(t, "the export", func() bool {
		c, err := nbdtest.Dial("unix", s.path("run/nbd.sock"), nbdtest.Options{Export: "m"})
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	r.stop()
}

// Whoever has started the engine and does not read what it prints gets the
// same service and the same end.
func TestUnreadStdout(t *testing.T) {
	var config strings.Builder
	config.WriteString("HEAD\n" + memoryVolume)
	for i := range 1000 { // together more than a pipe holds
		config.WriteString(strings.Replace(memoryExport, `"m"`, fmt.Sprintf(`"m%d"`, i), 1))
	}
	s := newSite(t, config.String())
	r := &server{site: s, lines: make(chan string), stderr: &lockedBuffer{}}
	close(r.lines)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	r.start(pw)
	_ = pw.Close()
	nbdtest.WaitFor(t, "the last export", func() bool {
		c, err := nbdtest.Dial("unix", s.path("run/nbd.sock"), nbdtest.Options{Export: "m999"})
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	r.stop()
}

// A server that never came is no reason to wait, nor for a failure.
func TestDrainWithoutServer(t *testing.T) {
	t.Parallel()
	s := newSite(t, "HEAD\n"+nbdVolume("unix:none.sock"))
	r := s.run()
	r.until("ready")
	r.stop()
}

// A signal that comes while the engine waits for volumes ends it, too.
func TestSignalDuringStart(t *testing.T) {
	t.Parallel()
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport+nbdVolume("unix:none.sock"))
	r := s.run()
	r.until(`export "m"`) // and far keeps ready waiting
	r.stop()
	if out := strings.Join(r.seen, "\n"); strings.Contains(out, "ready") {
		t.Errorf("an engine that was told to end says that it is ready:\n%s", out)
	}
}
