package nbd

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"blockengine/engine/sys"
	"blockengine/engine/volume"
	"blockengine/internal/nbdtest"
)

// runHandshake feeds b in steps of at most size bytes and gives what the
// server says and how it ends.
func runHandshake(t *testing.T, exports []*export, b []byte, size int) (out []byte, v verdict, failed bool) {
	h := newHandshake(func() []*export { return exports })
	fed, used, idle := 0, 0, 0
	for {
		n, v, err := h.step(b[used:fed])
		if n < 0 || n > fed-used {
			t.Fatalf("used %d of %d bytes", n, fed-used)
		}
		used += n
		if len(h.out) > replyHigh+4*maxString {
			t.Fatalf("%d bytes of replies kept", len(h.out))
		}
		if idle++; n > 0 || v == moreInput {
			idle = 0
		}
		if idle > 2*len(exports)+10 {
			t.Fatal("steps without progress")
		}
		switch {
		case err != nil:
			return append(out, h.out...), v, true
		case v == chosen:
			info, _ := h.choice.export.Volume.Info()
			h.accept(&info)
			return append(out, h.out...), v, false
		case v == finished:
			return append(out, h.out...), v, false
		case v == sendFirst:
			out, h.out = append(out, h.out...), h.out[:0]
		case v == moreInput:
			if fed == len(b) {
				return append(out, h.out...), v, false
			}
			if fed-used >= handshakeRoom {
				t.Fatalf("%d bytes are not enough", fed-used)
			}
			fed = min(len(b), fed+size, used+handshakeRoom)
		}
	}
}

// FuzzHandshake: no bytes crash the negotiation or make it keep much, and it
// does not matter how they arrive.
func FuzzHandshake(f *testing.F) {
	flags := []byte{0, 0, 0, 3}
	seed := func(opts ...[]byte) { f.Add(append(bytes.Clone(flags), bytes.Join(opts, nil)...)) }
	meta := nbdtest.EncodeMeta("disk", "base:allocation", "x:y")
	info := nbdtest.EncodeInfo("disk", infoName, infoDescription, infoBlockSize)
	opt := nbdtest.EncodeOption
	seed()
	seed(opt(optExportName, []byte("disk")))
	seed(opt(optList, nil), opt(optAbort, []byte("bye")))
	seed(opt(optStructuredReply, nil), opt(optListMetaContext, meta), opt(optSetMetaContext, meta), opt(optInfo, info), opt(optGo, info))
	seed(opt(optExtendedHeaders, nil), opt(optStructuredReply, nil), opt(optGo, nbdtest.EncodeInfo("late")), opt(optGo, info))
	seed(opt(optStartTLS, nil), opt(99, make([]byte, 9000)), opt(optInfo, make([]byte, 9000)), opt(optList, []byte{1}))
	f.Add([]byte{0, 0, 0, 9})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))

	v := volume.New(volume.Options{Name: "v", Log: discard()})
	d := newDisk(4096)
	if err := v.Attach(volume.Store(d), d.info); err != nil {
		f.Fatal(err)
	}
	late := volume.New(volume.Options{Name: "late", Log: discard()})
	exports := []*export{{Export: Export{Name: "disk", Description: "d", Volume: v}}, {Export: Export{Name: "late", Volume: late}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 {
			return
		}
		out, verdict, failed := runHandshake(t, exports, b, len(b))
		out1, verdict1, failed1 := runHandshake(t, exports, b, 1+len(b)%7)
		if !bytes.Equal(out, out1) || verdict != verdict1 || failed != failed1 {
			t.Fatalf("whole: %v %v %x\nin pieces: %v %v %x", verdict, failed, out, verdict1, failed1, out1)
		}
	})
}

// converse sends b to a new connection and gives all that comes back.
func converse(t testing.TB, r *rig, b []byte) []byte {
	mine, theirs, err := sys.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	r.l.w.r.Do(func() { r.l.welcome(theirs) })
	file := os.NewFile(uintptr(mine), "client")
	c, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	go func() {
		c.Write(b)
		c.(*net.UnixConn).CloseWrite()
	}()
	out, err := io.ReadAll(c)
	if os.IsTimeout(err) {
		t.Fatal("the server neither answers nor closes")
	}
	return out
}

// FuzzTransmission: no bytes that a client sends after its handshake crash the
// server, keep it from ending the connection, or leave anything behind.
func FuzzTransmission(f *testing.F) {
	req := nbdtest.EncodeRequest
	for style := range byte(3) {
		ext := style == 2
		var pay uint16
		if ext {
			pay = cmdFlagPayloadLen
		}
		f.Add(style, req(ext, 0, cmdRead, 1, 0, 4096, nil))
		f.Add(style, req(ext, pay, cmdWrite, 2, 100, 5, []byte("hello")))
		f.Add(style, append(req(ext, pay, cmdWrite, 2, 0, 100<<10, make([]byte, 100<<10)), req(ext, 0, cmdRead, 3, 0, 100<<10, nil)...))
		f.Add(style, append(req(ext, 0, cmdBlockStatus, 4, 0, 65536, nil), req(ext, 0, cmdDisc, 0, 0, 0, nil)...))
		f.Add(style, append(req(ext, 0, cmdFlush, 5, 0, 0, nil), req(ext, 0, cmdWriteZeroes, 6, 0, 1<<16, nil)...))
		f.Add(style, req(ext, pay, cmdWrite, 7, 0, 0xffffffff, []byte("x")))
		f.Add(style, req(ext, pay, cmdTrim, 8, 0, 40<<20, []byte("x")))
		f.Add(style, req(ext, 1<<9, cmdWrite, 9, 0, 9, []byte("123456789")))
		f.Add(style, req(ext, 0, cmdRead, 1, 0, 4096, nil)[:20])
	}
	d := newDisk(256 << 10)
	r := newRig(f, d)
	f.Fuzz(func(t *testing.T, style byte, b []byte) {
		if len(b) > 256<<10 {
			return
		}
		hello := []byte{0, 0, 0, 3}
		switch style % 3 {
		case 1:
			hello = append(hello, nbdtest.EncodeOption(optStructuredReply, nil)...)
			hello = append(hello, nbdtest.EncodeOption(optSetMetaContext, nbdtest.EncodeMeta("disk", "base:allocation"))...)
		case 2:
			hello = append(hello, nbdtest.EncodeOption(optExtendedHeaders, nil)...)
			hello = append(hello, nbdtest.EncodeOption(optSetMetaContext, nbdtest.EncodeMeta("disk", "base:allocation"))...)
		}
		hello = append(hello, nbdtest.EncodeOption(optGo, nbdtest.EncodeInfo("disk"))...)
		out := converse(t, r, append(hello, b...))
		if len(out) < greetingSize+20 {
			t.Fatalf("the handshake failed: %x", out)
		}
		for end := time.Now().Add(patience); r.connections() > 0 || r.inUse() > 0; time.Sleep(100 * time.Microsecond) {
			if time.Now().After(end) {
				t.Fatalf("left behind: %d connections, %d bytes", r.connections(), r.inUse())
			}
		}
	})
}
