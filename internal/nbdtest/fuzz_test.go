package nbdtest

import (
	"net"
	"testing"
	"time"
)

// FuzzClientRecv feeds a client with a read and a block status outstanding with
// any bytes: it must end with replies or an error, never panic, and never call a
// read complete that was not filled.
func FuzzClientRecv(f *testing.F) {
	const readCookie, statusCookie = 1, 2
	done := ReplyFlagDone
	for _, extended := range []bool{false, true} {
		status := Chunk{Flags: done, Type: ReplyBlockStatus, Cookie: statusCookie, Payload: be.AppendUint64(be.AppendUint32(nil, 7), 512<<32)}
		data := dataChunk(0, make([]byte, 256))
		data.Cookie = readCookie
		hole := Chunk{Flags: done, Type: ReplyOffsetHole, Cookie: readCookie, Payload: be.AppendUint32(be.AppendUint64(nil, 256), 256)}
		broken := Chunk{Flags: done, Type: ReplyErrorOffset, Cookie: readCookie, Payload: be.AppendUint64([]byte{0, 0, 0, 5, 0, 0}, 100)}
		f.Add(join([][]byte{encodeChunk(data, extended), encodeChunk(status, extended), encodeChunk(hole, extended)}), extended)
		f.Add(join([][]byte{encodeChunk(data, extended), encodeChunk(broken, extended)}), extended)
		f.Add(encodeChunk(Chunk{Flags: done, Type: ReplyNone, Cookie: readCookie}, extended), extended)
	}
	f.Fuzz(func(t *testing.T, b []byte, extended bool) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		c := NewClient(ours, Options{Timeout: 5 * time.Second})
		c.Structured, c.Extended = !extended, extended
		c.Contexts, c.Info = map[uint32]string{7: BaseAllocation}, ExportInfo{Size: 512}
		mustDo(t, c.register(&Request{Op: CmdRead, Cookie: readCookie, Length: 512}))
		mustDo(t, c.register(&Request{Op: CmdBlockStatus, Cookie: statusCookie, Length: 512}))
		go func() {
			theirs.Write(b)
			theirs.Close()
		}()
		for range 3 {
			rep, err := c.Recv()
			if err != nil {
				return
			}
			if rep.Err == nil && rep.Request.Op == CmdRead {
				checkCovered(t, rep)
			}
		}
		t.Error("three replies to two requests")
	})
}

// checkCovered counts the bytes of the content chunks, another way than the
// client does.
func checkCovered(t *testing.T, rep *Reply) {
	t.Helper()
	var covered [512]bool
	for _, c := range rep.Chunks {
		for i := range c.Size {
			if covered[c.Offset+i] {
				t.Fatalf("byte %d was filled twice", c.Offset+i)
			}
			covered[c.Offset+i] = true
		}
	}
	for i, ok := range covered {
		if !ok {
			t.Fatalf("success though byte %d was not filled", i)
		}
	}
}
