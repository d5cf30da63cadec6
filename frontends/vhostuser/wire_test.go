package vhostuser

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"

	"blockengine/engine/sys"
)

// The bytes were written down by hand from vhost-user, "Message Specification".
func TestGoldenBytes(t *testing.T) {
	for want, got := range map[string][]byte{
		// request 1, version 1 and reply, 8 bytes, the number
		"01000000" + "05000000" + "08000000" + "0807060504030201":    encodeMessage(msgGetFeatures, flagReply, encodeU64(0x0102030405060708)),
		"02000000" + "01000000" + "00000000":                         encodeMessage(backConfigChange, 0, nil),
		"03000000" + "39300000":                                      vringState{3, 12345}.encode(),
		"4001000000000000" + "0010000000000000" + "0200" + "8000":    inflightArea{0x140, 0x1000, 2, 128}.encode(20),
		"4001000000000000" + "0000000000000000" + "0200800000000000": inflightArea{0x140, 0, 2, 128}.encode(24),
	} {
		if hex.EncodeToString(got) != want {
			t.Errorf("\n got %x\nwant %s", got, want)
		}
	}
}

func TestDecode(t *testing.T) {
	raw := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct{ got, want any }{
		{decodeHeader(raw("05000000 09000000 28010000")), header{5, 9, 0x128}},
		{decodeState(raw("01000000 00040000")), vringState{1, 1024}},
		{decodeAddr(raw("02000000 01000000 1000000000000000 2000000000000000 3000000000000000 4000000000000000")),
			vringAddr{index: 2, flags: 1, desc: 0x10, used: 0x20, avail: 0x30, logs: 0x40}},
		{decodeRegion(raw("0000100000000000 0000f00000000000 000000c0ff7f0000 0010000000000000")),
			region{guest: 1 << 20, size: 15 << 20, user: 0x7fffc0000000, offset: 4096}},
		{decodeInflight(raw("4001000000000000 0010000000000000 0200 8000")), inflightArea{0x140, 0x1000, 2, 128}},
	} {
		if c.got != c.want {
			t.Errorf("\n got %+v\nwant %+v", c.got, c.want)
		}
	}
}

// script is a stream that gives what was written down, in pieces.
type script struct {
	in    []byte
	fds   []int // that come with the first bytes
	piece int
	sent  []byte
	gifts int // descriptors sent
	err   error
}

func (s *script) receive(b []byte, fds []int) (int, []int, error) {
	if len(s.in) == 0 {
		if s.err != nil {
			return 0, fds, s.err
		}
		return 0, fds, io.EOF
	}
	n := min(len(b), len(s.in))
	if s.piece > 0 {
		n = min(n, s.piece)
	}
	copy(b, s.in[:n])
	s.in = s.in[n:]
	fds = append(fds, s.fds...)
	s.fds = nil
	return n, fds, nil
}

func (s *script) send(b []byte, fd int) error {
	s.sent = append(s.sent, b...)
	if fd >= 0 {
		s.gifts++
	}
	return nil
}

// raw gives a message as it may come.
func raw(request, flags, size uint32, payload string) []byte {
	b := ne.AppendUint32(nil, request)
	b = ne.AppendUint32(b, flags)
	b = ne.AppendUint32(b, size)
	return append(b, payload...)
}

func TestReadMessage(t *testing.T) {
	before := openFiles(t)
	for _, c := range []struct {
		name string
		in   []byte
		fds  int
		want string // of the error; "" is none
	}{
		{"plain", raw(msgGetFeatures, 1, 0, ""), 0, ""},
		{"payload", raw(msgSetFeatures, 1|flagNeedReply, 8, "12345678"), 0, ""},
		{"descriptor", raw(msgSetVringKick, 1, 8, "12345678"), 1, ""},
		{"end", nil, 0, "EOF"},
		{"half a header", raw(msgGetFeatures, 1, 0, "")[:11], 1, "middle of a message"},
		{"half a payload", raw(msgSetFeatures, 1, 8, "123"), 1, "middle of a message"},
		{"version", raw(msgGetFeatures, 2, 0, ""), 1, "version 2"},
		{"version 0", raw(msgGetFeatures, 0, 0, ""), 0, "version 0"},
		{"reply", raw(msgGetFeatures, 5, 8, "12345678"), 0, "a reply"},
		{"unknown", raw(999, 1, 0, ""), 1, "message type 999"},
		{"zero", raw(0, 1, 0, ""), 0, "message type 0"},
		{"log", raw(6, 1, 8, "12345678"), 1, "message type 6"},
		{"huge", raw(msgSetFeatures, 1, 0xffffffff, ""), 1, "a payload of 4294967295 bytes, want 8"},
		{"small", raw(msgSetFeatures, 1, 7, "1234567"), 0, "a payload of 7 bytes"},
		{"large config", raw(msgGetConfig, 1, 4097, ""), 0, "want 12 to 4096"},
		{"uncalled-for descriptor", raw(msgGetFeatures, 1, 0, ""), 1, "1 descriptors"},
		{"missing descriptor", raw(msgAddMemReg, 1, 40, strings.Repeat("x", 40)), 0, "0 descriptors"},
		{"many descriptors", raw(msgSetMemTable, 1, 8, "12345678"), 9, "9 descriptors"},
	} {
		for piece := range 13 {
			s := &script{in: c.in, piece: piece}
			for range c.fds {
				fd, err := sys.OpenSpare()
				if err != nil {
					t.Fatal(err)
				}
				s.fds = append(s.fds, fd)
			}
			all := s.fds
			m, err := readMessage(s)
			if c.want == "" {
				if err != nil {
					t.Fatalf("%s, %d bytes at a time: %v", c.name, piece, err)
				}
				if string(c.in[12:]) != string(m.payload) || len(m.fds) != c.fds {
					t.Errorf("%s: %q with %d descriptors", c.name, m.payload, len(m.fds))
				}
				m.close()
			} else if m != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %d bytes at a time: %v, %v", c.name, piece, m, err)
			}
			if len(c.in) == 0 {
				for _, fd := range all {
					_ = sys.Close(fd)
				}
			}
		}
	}
	if now := openFiles(t); now != before {
		t.Errorf("%d descriptors, before %d", now, before)
	}
	s := &script{err: io.ErrClosedPipe}
	if _, err := readMessage(s); err != io.ErrClosedPipe {
		t.Error(err)
	}
}

// Every message that is in the table has a name and a handler, and a reply of
// its own or none.
func TestForms(t *testing.T) {
	names := map[string]bool{}
	for id, f := range forms {
		if f.name == "" || names[f.name] || f.handle == nil || f.least > f.most || f.leastFDs > f.mostFDs || f.most > maxPayload || f.mostFDs > maxDescriptors {
			t.Errorf("message %d: %+v", id, fmt.Sprint(f.name))
		}
		names[f.name] = true
	}
}
