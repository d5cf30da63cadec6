package abi_test

import (
	"encoding/hex"
	"strings"
	"testing"
	"unsafe"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// golden are the bytes of every action, as a plugin gives it. A space stands
// before each field.
var golden = []struct {
	name string
	give func(a *protocol.Actions)
	want string
}{
	{"Send", func(a *protocol.Actions) { a.Send([]byte("hello")) }, "0100 0000 18000000 05000000 ******** 68656c6c6f ******"},
	{"SendPayload", func(a *protocol.Actions) { a.SendPayload(0x1122334455667788, 1, 2) }, "0200 0000 20000000 8877665544332211 0100000000000000 0200000000000000"},
	{"SendDigest", func(a *protocol.Actions) { a.SendDigest(abi.DigestCRC32C) }, "0300 0000 10000000 00000000 01000000"},
	{"SendDigested", func(a *protocol.Actions) { a.SendDigested([]byte("12345678")) }, "0100 0100 18000000 08000000 ******** 3132333435363738"},
	{"SendPayloadDigested", func(a *protocol.Actions) { a.SendPayloadDigested(1, 0, 9) }, "0200 0100 20000000 0100000000000000 0000000000000000 0900000000000000"},
	{"Receive", func(a *protocol.Actions) { a.Receive(7, 16, 1<<32) }, "0500 0000 20000000 0700000000000000 1000000000000000 0000000001000000"},
	{"ReceiveDigested", func(a *protocol.Actions) { a.ReceiveDigested(7, 0, 1) }, "0500 0100 20000000 0700000000000000 0000000000000000 0100000000000000"},
	{"Discard", func(a *protocol.Actions) { a.Discard(99) }, "0600 0000 10000000 6300000000000000"},
	{"DiscardDigested", func(a *protocol.Actions) { a.DiscardDigested(99) }, "0600 0100 10000000 6300000000000000"},
	{"CheckDigest", func(a *protocol.Actions) { a.CheckDigest(5, abi.DigestCRC32C) }, "0700 0000 10000000 05000000 01000000"},
	{"Want", func(a *protocol.Actions) { a.Want(16, 512) }, "0800 0000 10000000 10000000 00020000"},
	{"Zero", func(a *protocol.Actions) { a.Zero(7, 0, 8) }, "0900 0000 20000000 0700000000000000 0000000000000000 0800000000000000"},
	{"Extent", func(a *protocol.Actions) { a.Extent(7, 4096, block.Hole|block.Zero) }, "0a00 0000 20000000 0700000000000000 0010000000000000 03000000 ********"},
	{"Complete", func(a *protocol.Actions) { a.Complete(7, block.ENOSPC) }, "0b00 0000 20000000 0700000000000000 1c000000 ******** 0000000000000000"},
	{"CompletePartial", func(a *protocol.Actions) { a.CompletePartial(7, block.EIO, 512) }, "0b00 0000 20000000 0700000000000000 05000000 ******** 0002000000000000"},
	{"Released", func(a *protocol.Actions) { a.Released(7, true) }, "0c00 0000 20000000 0700000000000000 01000000 ******** 0000000000000000"},
	{"Ready", func(a *protocol.Actions) { a.Ready(3) }, "0e00 0000 10000000 0300000000000000"},
	{"Data", func(a *protocol.Actions) { a.Data(7, 8, []byte("ab")) }, "0f00 0000 28000000 0700000000000000 0800000000000000 02000000 ******** 6162 ************"},
	{"Limits", func(a *protocol.Actions) {
		a.Limits(&protocol.Limits{Info: block.Info{Size: 1 << 30, BlockSize: 512, PreferredBlock: 4096, MaxTransfer: 1 << 20,
			MaxZeroes: 1 << 32, MaxDiscard: 1 << 31, Caps: block.CapFlush | block.CapFUA, Identity: "id"},
			Depth: 64, MaxConns: 4, Fence: abi.FenceQuiesce, FenceNS: 5, Handover: true})
	}, "1000 0000 58000000 0000004000000000 0000000001000000 0000008000000000 0500000000000000 00020000 00100000 00001000 03000000 40000000 04000000 02000000 01000000 02000000 ******** 6964 ************"},
	{"SetTimer", func(a *protocol.Actions) { a.SetTimer(3, 1e9) }, "1100 0000 18000000 03000000 ******** 00ca9a3b00000000"},
	{"Publish", func(a *protocol.Actions) { a.Publish([]byte("data")) }, "1200 0000 18000000 04000000 ******** 64617461 ********"},
	{"Message", func(a *protocol.Actions) { a.Message(2, []byte("hi")) }, "1300 0000 18000000 02000000 02000000 6869 ************"},
	{"Fail", func(a *protocol.Actions) { a.Fail(abi.FailSession, block.EPROTO, "why") }, "1400 0000 20000000 02000000 47000000 03000000 ******** 776879 **********"},
	{"Close", func(a *protocol.Actions) { a.Close() }, "1500 0000 08000000"},
	{"State", func(a *protocol.Actions) { a.State([]byte("s")) }, "1600 0000 18000000 01000000 ******** 73 **************"},
	{"Hash", func(a *protocol.Actions) { a.Hash(1, abi.DigestSHA256, 7, 0, 512) }, "1700 0000 28000000 01000000 02000000 0700000000000000 0000000000000000 0002000000000000"},
	{"Path", func(a *protocol.Actions) { a.Path(abi.PathInaccessible) }, "1800 0000 10000000 03000000 ********"},
	{"Redirect", func(a *protocol.Actions) { a.Redirect("tcp:h:1", true) }, "1900 0400 18000000 07000000 ******** 7463703a683a31 **"},
	{"Log", func(a *protocol.Actions) { a.Log(abi.LogWarn, "oh") }, "1a00 0200 18000000 02000000 ******** 6f68 ************"},
}

// once gives one action when it is opened.
type once struct {
	protocol.Base
	give func(a *protocol.Actions)
}

func (o once) Opened(a *protocol.Actions, _ *protocol.Opened)         { o.give(a) }
func (once) Submit(*protocol.Actions, []protocol.Request) int         { return 0 }
func (once) Received(_ *protocol.Actions, b []byte) int               { return len(b) }
func (once) Abort(a *protocol.Actions, tag uint64)                    { a.Released(tag, false) }
func (once) Message(a *protocol.Actions, from uint32, data []byte)    { a.Message(from, data) }
func (once) Timer(a *protocol.Actions, id uint32, now protocol.Clock) { a.SetTimer(id, now.Mono) }

func aligned(n int) []byte {
	w := make([]uint64, n/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w))), n)
}

func TestGoldenActions(t *testing.T) {
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			in, out := aligned(abi.InSize), aligned(abi.OutSize)
			m := protocol.NewMachine(once{give: g.give}, in, out, nil)
			in[0], in[4] = abi.EvOpened, 128
			got := hex.EncodeToString(out[:m.Call(128)])
			want := strings.ReplaceAll(g.want, " ", "")
			if len(got) != len(want) {
				t.Fatalf("got  %s\nwant %s", got, want)
			}
			for i := range want {
				if want[i] != '*' && want[i] != got[i] {
					t.Fatalf("got  %s\nwant %s", got, want)
				}
			}
		})
	}
}

// Events as bytes come in as the methods say.
func TestGoldenEvents(t *testing.T) {
	for _, c := range []struct{ name, event, want string }{
		{"Abort", "0500 0000 10000000 0807060504030201", "0c00 0000 20000000 0807060504030201 00000000"},
		{"Message", "0800 0000 18000000 05000000 02000000 6162000000000000", "1300 0000 18000000 05000000 02000000 6162"},
		{"Timer", "0400 0000 20000000 03000000 00000000 0900000000000000 0000000000000000", "1100 0000 18000000 03000000 00000000 0900000000000000"},
	} {
		in, out := aligned(abi.InSize), aligned(abi.OutSize)
		m := protocol.NewMachine(once{}, in, out, nil)
		b, err := hex.DecodeString(strings.ReplaceAll(c.event, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		n := m.Call(uint32(copy(in, b)))
		if got, want := hex.EncodeToString(out[:n]), strings.ReplaceAll(c.want, " ", ""); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want %s", c.name, got, want)
		}
	}
}
