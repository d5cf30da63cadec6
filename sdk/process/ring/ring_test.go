package ring

import (
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unsafe"
)

// layouts says where the fields of every struct stand, as offset+size: part of the
// promise that a plugin built once goes on working. Fields may be given to what is
// padding, nothing else.
const layouts = `
Shape 64: Magic 0+8, Version 8+4, Kind 12+4, Depth 16+4, Transfer 20+4, Stride 24+4, First 32+8, Second 40+8, Payload 48+8, Size 56+8
Header 4096: Shape 0+64, SubTail 128+4, CallIn 132+4, SubHead 256+4, SubArmed 384+4, CompTail 512+4, CallOut 516+4, CompArmed 640+4
Submission 32: Slot 0+2, Op 2+1, Flags 4+2, Pieces 6+2, Offset 8+8, Length 16+8
Completion 16: Slot 0+2, Extents 2+2, Status 4+4, Filled 8+8
Extent 16: Length 0+8, State 8+4
Piece 24: Memory 0+8, Offset 8+8, Length 16+4
`

func TestLayouts(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(layouts), "\n")
	for i, r := range []any{Shape{}, new(Header), Submission{}, Completion{}, Extent{}, Piece{}} {
		typ := reflect.TypeOf(r)
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		var fields []string
		for k := range typ.NumField() {
			if f := typ.Field(k); f.Name != "_" {
				fields = append(fields, fmt.Sprintf("%s %d+%d", f.Name, f.Offset, f.Type.Size()))
			}
		}
		if got := fmt.Sprintf("%s %d: %s", typ.Name(), typ.Size(), strings.Join(fields, ", ")); got != lines[i] {
			t.Errorf("the layout has changed:\n got %s\nwant %s", got, lines[i])
		}
	}
}

// aligned gives n bytes that start at a page.
func aligned(n int) []byte {
	b := make([]byte, n+page)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (page - 1)
	return b[skip : skip+n : skip+n]
}

func format(t *testing.T, l Layout, err error) (*Region, []byte) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	mem := aligned(l.Size())
	r, err := Format(l, mem)
	if err != nil {
		t.Fatal(err)
	}
	return r, mem
}

// golden compares bytes; a space stands before each field.
func golden(t *testing.T, what string, b []byte, want string) {
	t.Helper()
	if got := hex.EncodeToString(b); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("%s: got %s, want %s", what, got, want)
	}
}

func TestGoldenStore(t *testing.T) {
	l, err := StoreLayout(128, 256<<10)
	r, mem := format(t, l, err)
	golden(t, "shape", mem[:64], "424552494e47ff0a 01000100 01000000 80000000 00000400 00000400 00000000"+
		"0010000000000000 0020000000000000 0030000000000000 0030000200000000")
	r.SubTail.Store(0x01020304)
	golden(t, "word", mem[128:136], "04030201 00000000")
	r.Submissions[127] = Submission{Slot: 0x0102, Op: 3, Flags: 0x0405, Pieces: 0x1011, Offset: 0x060708090a0b0c0d, Length: 0x0e0f}
	golden(t, "submission", mem[page+127*32:page+128*32], "0201 03 00 0504 1110 0d0c0b0a09080706 0f0e000000000000 0000000000000000")
	r.Completions[1] = Completion{Slot: 0x0102, Extents: 3, Status: 28, Filled: 1 << 40}
	golden(t, "completion", mem[2*page+16:2*page+32], "0201 0300 1c000000 0000000000010000")
	if got := r.Completions[1].Load(); got != r.Completions[1] {
		t.Errorf("Load gives %+v of %+v", got, r.Completions[1])
	}
	r.Extents(1)[1] = Extent{Length: 4096, State: 3}
	golden(t, "extent", mem[3*page+256<<10+16:3*page+256<<10+32], "0010000000000000 03000000 00000000")
	if e := r.Extents(1)[1]; e.Load() != e || len(r.Extents(1)) != MaxExtents {
		t.Errorf("%d extents, %+v", len(r.Extents(1)), e)
	}
	r.Pieces(1)[127] = Piece{Memory: 7, Offset: 1 << 32, Length: 4096}
	golden(t, "piece", mem[3*page+256<<10+127*24:3*page+256<<10+128*24], "0700000000000000 0000000001000000 00100000 00000000")
	last := r.Buffer(127)
	last[len(last)-1] = 7
	if len(last) != 256<<10 || cap(last) != len(last) || mem[len(mem)-1] != 7 {
		t.Errorf("the last slot's buffer does not end with the region: %d bytes", len(last))
	}
}

func TestGoldenMachine(t *testing.T) {
	l, err := MachineLayout(64<<10, 8<<10)
	r, mem := format(t, l, err)
	golden(t, "shape", mem[:64], "424552494e47ff0a 01000100 02000000 00000000 00000000 00000000 00000000"+
		"0010000000000000 0010010000000000 0000000000000000 0030010000000000")
	r.In[0], r.Out[len(r.Out)-1] = 1, 2
	if mem[page] != 1 || mem[len(mem)-1] != 2 || len(r.In) != 64<<10 || len(r.Out) != 8<<10 {
		t.Errorf("buffers of %d and %d bytes stand elsewhere", len(r.In), len(r.Out))
	}
}

// What a stranger says of a region is refused unless it makes sense.
func TestCheck(t *testing.T) {
	good, _ := StoreLayout(128, 8192)
	machine, _ := MachineLayout(4096, 4096)
	for _, c := range []struct {
		name string
		l    Layout
		f    func(l *Layout)
		want string
	}{
		{"version", good, func(l *Layout) { l.Version = 2 << 16 }, "version 2.0"},
		{"kind", good, func(l *Layout) { l.Kind = 3 }, "kind 3"},
		{"no slots", good, func(l *Layout) { l.Depth = 0 }, "0 slots"},
		{"many slots", good, func(l *Layout) { l.Depth = 2048 }, "2048 slots"},
		{"odd slots", good, func(l *Layout) { l.Depth = 100 }, "100 slots"},
		{"small slots", good, func(l *Layout) { l.Transfer = 512 }, "512 bytes"},
		{"large slots", good, func(l *Layout) { l.Transfer = 512 << 10 }, "524288 bytes"},
		{"odd size of slots", good, func(l *Layout) { l.Transfer = 5000 }, "5000 bytes"},
		{"events for a store", good, func(l *Layout) { l.In = 4096 }, "events of 4096"},
		{"huge events", machine, func(l *Layout) { l.In = 1<<32 - 4096 }, "4294963200 bytes"},
		{"no actions", machine, func(l *Layout) { l.Out = 0 }, "holds 0 bytes"},
		{"a machine's slots", machine, func(l *Layout) { l.Depth = 4 }, "4 slots"},
	} {
		l := c.l
		if err := l.Check(); err != nil {
			t.Errorf("%s: the good one: %v", c.name, err)
		}
		c.f(&l)
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, wanted %q", c.name, err, c.want)
		}
		if _, err := Format(l, aligned(page)); err == nil {
			t.Errorf("%s: Format takes it", c.name)
		}
	}
}

func TestAttach(t *testing.T) {
	l, err := StoreLayout(2, 4096)
	_, mem := format(t, l, err)
	if _, err := Attach(l, mem); err != nil {
		t.Errorf("what Format has made: %v", err)
	}
	if _, err := Attach(l, mem[:len(mem)-page]); err == nil || !strings.Contains(err.Error(), "bytes, its layout") {
		t.Errorf("a region that is short: %v", err)
	}
	if _, err := Attach(l, append(aligned(len(mem) + page)[8:8], mem...)); err == nil || !strings.Contains(err.Error(), "start at a page") {
		t.Errorf("a region that is not aligned: %v", err)
	}
	for _, at := range []int{0, 8, 12, 16, 20, 24, 32, 40, 48, 56} {
		mem[at] ^= 1
		if _, err := Attach(l, mem); err == nil || !strings.Contains(err.Error(), "header says") {
			t.Errorf("byte %d of the header is another: %v", at, err)
		}
		mem[at] ^= 1
	}
}
