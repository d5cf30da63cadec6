package abi

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// layouts says where the fields of every record stand, as offset+size: part of
// the promise that a plugin built once goes on working. Lines and, at the end of
// lines, fields may be added, nothing else.
const layouts = `
Header 8: Kind 0+2, Flags 2+2, Size 4+4
Buffers 16: In 0+4, InSize 4+4, Out 8+4, OutSize 12+4
Opened 128: Header 0+8, Mono 8+8, Wall 16+8, HostID 24+16, SessionID 40+16, Seed 56+32, Conn 88+4, Reactor 92+4, Role 96+2, Session 98+2, Depth 100+4, OptionsLen 104+4, SessionLen 108+4, StateLen 112+4, ReadOnly 116+4, StreamPos 120+8
Request 40: Header 0+8, Tag 8+8, Op 16+1, Mods 18+2, Offset 24+8, Length 32+8
Received 24: Header 0+8, Offset 8+8, Len 16+4
Timer 32: Header 0+8, ID 8+4, Mono 16+8, Wall 24+8
Abort 16: Header 0+8, Tag 8+8
Closed 16: Header 0+8, Reason 8+4, Status 12+4
Message 16: Header 0+8, Conn 8+4, Len 12+4
SessionData 16: Header 0+8, Len 8+4
Digest 48: Header 0+8, ID 8+4, Status 12+4, Value 16+32
Payload 32: Header 0+8, Tag 8+8, From 16+8, Len 24+4
Bytes 16: Header 0+8, Len 8+4
Range 32: Header 0+8, Tag 8+8, From 16+8, To 24+8
Count 16: Header 0+8, N 8+8
Want 16: Header 0+8, Min 8+4, Max 12+4
Complete 32: Header 0+8, Tag 8+8, Status 16+4, Done 24+8
Extent 32: Header 0+8, Tag 8+8, Length 16+8, State 24+4
Limits 80: Header 0+8, Size 8+8, MaxZeroes 16+8, MaxDiscard 24+8, FenceNS 32+8, BlockSize 40+4, Preferred 44+4, MaxTransfer 48+4, Caps 52+4, Depth 56+4, MaxConns 60+4, Fence 64+4, Handover 68+4, IdentityLen 72+4
SetTimer 24: Header 0+8, ID 8+4, After 16+8
Fail 24: Header 0+8, Scope 8+4, Status 12+4, Len 16+4
DigestMark 16: Header 0+8, ID 8+4, Kind 12+4
Hash 40: Header 0+8, ID 8+4, Kind 12+4, Tag 16+8, From 24+8, To 32+8
PathState 16: Header 0+8, State 8+4
`

// records are all structs that cross the interface.
var records = []any{
	Header{}, Buffers{}, Opened{}, Request{}, Received{}, Timer{}, Abort{}, Closed{}, Message{}, SessionData{},
	Digest{}, Payload{}, Bytes{}, Range{}, Count{}, Want{}, Complete{}, Extent{}, Limits{}, SetTimer{}, Fail{},
	DigestMark{}, Hash{}, PathState{},
}

// describe gives a record's line of layouts.
func describe(t reflect.Type) string {
	var fields []string
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Name != "_" {
			fields = append(fields, fmt.Sprintf("%s %d+%d", f.Name, f.Offset, f.Type.Size()))
		}
	}
	return fmt.Sprintf("%s %d: %s", t.Name(), t.Size(), strings.Join(fields, ", "))
}

func TestLayouts(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(layouts), "\n")
	if len(lines) != len(records) {
		t.Fatalf("%d lines for %d records", len(lines), len(records))
	}
	for i, r := range records {
		if got := describe(reflect.TypeOf(r)); got != lines[i] {
			t.Errorf("the layout has changed:\n got %s\nwant %s", got, lines[i])
		}
		if n := reflect.TypeOf(r).Size(); n%8 != 0 {
			t.Errorf("%T is %d bytes long, no multiple of 8", r, n)
		}
	}
}

func TestNext(t *testing.T) {
	two := make([]byte, 24)
	two[4], two[12] = 8, 16
	rec, rest, ok := Next(two)
	if !ok || len(rec) != 8 || len(rest) != 16 || cap(rec) != 8 {
		t.Fatalf("%d, %d, %v", len(rec), len(rest), ok)
	}
	if rec, rest, ok = Next(rest); !ok || len(rec) != 16 || len(rest) != 0 {
		t.Fatalf("%d, %d, %v", len(rec), len(rest), ok)
	}
	for _, size := range []byte{0, 4, 7, 9, 12, 32} {
		two[4] = size
		if _, rest, ok := Next(two); ok || len(rest) != len(two) {
			t.Errorf("a record of size %d in 24 bytes was accepted", size)
		}
	}
	if _, _, ok := Next(two[:7]); ok {
		t.Error("seven bytes were taken for a record")
	}
}

func TestInline(t *testing.T) {
	rec := make([]byte, 24)
	for _, c := range []struct {
		fixed int
		n     uint32
		ok    bool
	}{{16, 0, true}, {16, 8, true}, {16, 9, false}, {24, 0, true}, {32, 0, false}, {16, 1<<32 - 1, false}} {
		b, ok := Inline(rec, c.fixed, c.n)
		if ok != c.ok || ok && (len(b) != int(c.n) || cap(b) != len(b)) {
			t.Errorf("Inline(24 bytes, %d, %d) = %d bytes, %v", c.fixed, c.n, len(b), ok)
		}
	}
	if Overlay[Count](rec[:15]) != nil || Overlay[Count](rec[:16]) == nil {
		t.Error("Overlay does not look at the length")
	}
}
