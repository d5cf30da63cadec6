package nbdkernel

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"blockengine/engine/sys"
)

// TestConnectBytes holds an order against bytes that were written down by hand
// from linux/netlink.h, linux/genetlink.h and linux/nbd-netlink.h (little endian).
func TestConnectBytes(t *testing.T) {
	if ne.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the golden bytes are for a little endian host")
	}
	s := settings{number: 3, size: 1 << 30, blockSize: 512, timeout: 1500 * time.Millisecond, dead: time.Minute, flags: 0x105,
		backend: "ab", sockets: []int{7, 9}}
	got := finish(s.append(message(0x1c, nlAck, 1, cmdConnect, familyVersion)))
	want := "7c000000" + "1c00" + "0500" + "01000000" + "00000000" + // length, family, request and ack, sequence, port
		"01010000" + // connect, version
		"08000100" + "03000000" +
		"0c000200" + "0000004000000000" +
		"0c000300" + "0002000000000000" +
		"0c000400" + "0200000000000000" + // a limit is rounded up
		"0c000800" + "3c00000000000000" +
		"0c000500" + "0501000000000000" +
		"07000a00" + "61620000" +
		"1c000780" + "0c000180" + "08000100" + "07000000" + "0c000180" + "08000100" + "09000000"
	if hex.EncodeToString(got) != want {
		t.Errorf("got  %x\nwant %s", got, want)
	}
}

func TestSettingsLeaveOutWhatIsNotSet(t *testing.T) {
	empty := settings{number: AnyNumber}
	if got := empty.append(nil); len(got) != 0 {
		t.Errorf("%x", got)
	}
}

// reply makes a datagram of messages of the kernel.
func reply(parts ...[]byte) []byte { return slices.Concat(parts...) }

func ack(no int32) []byte {
	b := make([]byte, nlHeaderSize, nlHeaderSize+20)
	ne.PutUint16(b[4:], nlError)
	b = ne.AppendUint32(b, uint32(-no))
	return finish(append(b, make([]byte, 16)...))
}

func TestAnswers(t *testing.T) {
	index := finish(attrUint32(message(0x1c, 0, 1, cmdConnect, 1), attrIndex, 5))
	for name, tc := range map[string]struct {
		datagrams [][]byte
		want      int // answers
		err       error
	}{
		"answer and acknowledgement in one": {[][]byte{reply(index, ack(0))}, 1, nil},
		"one after the other":               {[][]byte{index, ack(0)}, 1, nil},
		"refused":                           {[][]byte{ack(16)}, 0, sys.Errno(16)},
		"the end":                           {nil, 0, io.EOF},
	} {
		list, err := receiveAnswers(func(b []byte) (int, error) {
			if len(tc.datagrams) == 0 {
				return 0, io.EOF
			}
			n := copy(b, tc.datagrams[0])
			tc.datagrams = tc.datagrams[1:]
			return n, nil
		})
		if len(list) != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("%s: %d answers, error %v", name, len(list), err)
		}
	}
}

// FuzzMessages: whatever comes is taken apart without a panic, and what is said to
// be whole lies within.
func FuzzMessages(f *testing.F) {
	f.Add(reply(finish(attrUint32(message(0x1c, 0, 1, cmdLinkDead, 1), attrIndex, 5)), ack(0)))
	f.Add(ack(22))
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _ := messages(b)
		total := 0
		for _, a := range list {
			total += len(a.data)
			a.errno()
			attributes(a.data, func(_ uint16, v []byte) {
				uintOf(v)
				textOf(v)
				takeDevice(v, nil)
				(&driver{}).takeGroup(v)
			})
		}
		if total > len(b) {
			t.Errorf("%d bytes of data in %d", total, len(b))
		}
	})
}

// script is a server that says what it is told to.
type script struct {
	io.Reader
	sent bytes.Buffer
}

func (s *script) Write(b []byte) (int, error) { return s.sent.Write(b) }

func greeting(flags uint16) []byte {
	b := be.AppendUint64(be.AppendUint64(nil, magicGreeting), magicOption)
	return be.AppendUint16(b, flags)
}

func option(kind uint32, data []byte) []byte {
	b := be.AppendUint64(nil, magicOptionReply)
	b = be.AppendUint32(be.AppendUint32(b, optGo), kind)
	return append(be.AppendUint32(b, uint32(len(data))), data...)
}

func export(size uint64, flags uint16) []byte {
	return be.AppendUint16(be.AppendUint64(be.AppendUint16(nil, infoExport), size), flags)
}

func TestNegotiate(t *testing.T) {
	blocks := be.AppendUint16(nil, infoBlockSize)
	blocks = be.AppendUint32(be.AppendUint32(be.AppendUint32(blocks, 4096), 4096), 1<<25)
	good := [][]byte{greeting(3), option(repInfo, export(1<<20, 0x105)), option(repInfo, blocks), option(repAck, nil)}
	s := &script{Reader: bytes.NewReader(slices.Concat(good...))}
	info, err := negotiate(s, "disk")
	if err != nil || info != (exportInfo{1 << 20, 0x105, 4096}) {
		t.Fatalf("%+v %v", info, err)
	}
	want := "00000003" + "49484156454f5054" + "00000007" + "0000000c" + "00000004" + hex.EncodeToString([]byte("disk")) + "0001" + "0003"
	if got := hex.EncodeToString(s.sent.Bytes()); got != want {
		t.Errorf("sent %s\nwant %s", got, want)
	}
	for name, bad := range map[string][][]byte{
		"no NBD":            {make([]byte, 18)},
		"oldstyle":          {greeting(0)},
		"refused":           {greeting(3), option(repError|6, []byte("not ready"))},
		"nothing said":      {greeting(3), option(repAck, nil)},
		"other option":      {greeting(3), append(be.AppendUint32(be.AppendUint64(nil, magicOptionReply), 1), make([]byte, 8)...)},
		"a reply too long":  {greeting(3), be.AppendUint32(option(repInfo, nil)[:16], maxReply+1)},
		"cut in the middle": {greeting(3), option(repInfo, export(1<<20, 1))[:25]},
	} {
		if _, err := negotiate(&script{Reader: bytes.NewReader(slices.Concat(bad...))}, "disk"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestMayAdminister(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n": true,
		"Name:\tx\nCapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\n":             false,
		"Name:\tx\nCapEff:\t0000000000200000\n":                                        true,
		"Name:\tx\nCapEff:\t00000000ffdfffff\n":                                        false,
		"nothing of the kind":                                                          true, // the driver will tell
	} {
		if got := mayAdminister(status); got != want {
			t.Errorf("%q: %v", status, got)
		}
	}
}
