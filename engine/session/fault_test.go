package session_test

import (
	"bytes"
	"testing"
	"time"

	"blockengine/engine/sys"
	"blockengine/internal/nbdtest"
	"blockengine/sdk/block"
)

// shared gives n bytes of memory that vanish with take.
func shared(t *testing.T, n int) (b []byte, take func()) {
	t.Helper()
	fd, err := sys.Memfd("guest", int64(n))
	if err != nil {
		t.Fatal(err)
	}
	if b, err = sys.MapShared(fd, 0, n); err != nil {
		t.Fatal(err)
	}
	m, err := sys.RegisterMapping("guest", b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Unregister()
		_ = sys.Unmap(b)
		_ = sys.Close(fd)
	})
	return b, func() {
		if err := sys.Truncate(fd, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// Rule 9: a virtual machine's monitor takes its memory away. Its requests fail;
// those of others go on, and so does the volume.
func TestMemoryIsTakenAway(t *testing.T) {
	for _, tc := range []struct {
		name string
		op   block.Op
		size int
	}{
		{"small read", block.OpRead, 4096}, {"large read", block.OpRead, 256 << 10},
		{"small write", block.OpWrite, 4096}, {"large write", block.OpWrite, 1 << 20},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, r := serve(t, nbdtest.ServerOptions{BadClients: true}, rigOptions{trust: true, fence: 300 * time.Millisecond})
			c := r.open(0)
			c.write(0, random(1<<20, 1))
			mem, take := shared(t, tc.size)
			release := s.StallReads() // so that what is sent does not go at once
			if tc.op == block.OpRead {
				release()
				release = s.StallReplies()
			}
			victim := c.start(tc.op, 0, 2<<20, uint64(tc.size), mem)
			other := random(64<<10, 2)
			fellow := c.start(block.OpWrite, 0, 4<<20, uint64(len(other)), other)
			if tc.op == block.OpWrite && tc.size == 4096 {
				take = func() {} // it went at once: nothing is left to fault
			}
			take()
			release()
			st := victim.wait(t)
			if tc.op == block.OpRead && st != block.EIO {
				t.Errorf("the read ended with %v", st)
			}
			if st := fellow.wait(t); st != block.OK {
				t.Errorf("a request of another: %v", st)
			}
			if !bytes.Equal(c.read(4<<20, len(other)), other) || !bytes.Equal(c.read(0, 1<<20), random(1<<20, 1)) {
				t.Error("data differs")
			}
			// Memory that has gone before the request comes.
			gone, take := shared(t, tc.size)
			take()
			if st := c.start(tc.op, 0, 2<<20, uint64(tc.size), gone).wait(t); st != block.EIO {
				t.Errorf("memory that was gone before: %v", st)
			}
			parts := [][]byte{make([]byte, 512), gone[:tc.size-1024], make([]byte, 512)}
			if st := c.start(tc.op, 0, 2<<20, uint64(tc.size), parts...).wait(t); st != block.EIO {
				t.Errorf("memory that was gone in the middle: %v", st)
			}
			c.write(1<<20, random(4096, 3))
			if got := c.read(1<<20, 4096); !bytes.Equal(got, random(4096, 3)) {
				t.Error("the volume does not go on")
			}
		})
	}
}
