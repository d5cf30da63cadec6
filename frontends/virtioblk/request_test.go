package virtioblk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"blockengine/sdk/block"
)

// header gives the 16 bytes that a request begins with.
func header(typ uint32, sector uint64) []byte {
	b := make([]byte, 16)
	binary.LittleEndian.PutUint32(b, typ)
	binary.LittleEndian.PutUint32(b[4:], 7) // a priority, which is nobody's
	binary.LittleEndian.PutUint64(b[8:], sector)
	return b
}

func ranges(rs ...segment) (b []byte) {
	for _, r := range rs {
		b = binary.LittleEndian.AppendUint64(b, r.sector)
		b = binary.LittleEndian.AppendUint32(b, r.sectors)
		b = binary.LittleEndian.AppendUint32(b, r.flags)
	}
	return b
}

// chop gives b in pieces, some of them empty.
func chop(b []byte, rng *rand.Rand) (pieces [][]byte) {
	for len(b) > 0 {
		n := min(len(b), rng.IntN(40))
		pieces = append(pieces, b[:n:n])
		b = b[n:]
	}
	return pieces
}

func join(pieces [][]byte) []byte { return bytes.Join(pieces, nil) }

var rules = Rules{Discard: true, WriteZeroes: true, MaxDiscardSectors: 1000, MaxZeroesSectors: 2000, Serial: [20]byte{'s', '1'}}

// call is a block request as expected.
type call struct {
	op     block.Op
	flags  block.Flags
	offset uint64
	length uint64
}

// run takes a request through its life, with every block request ending in st,
// and gives what was asked of the disk and what the device has written.
func run(rules *Rules, read, write [][]byte, st block.Status) (calls []call, written uint32, out []byte) {
	var r Request
	var b block.Request
	whole := append([][]byte(nil), write...)
	more := r.Begin(rules, read, write, uint64(len(join(read))), uint64(len(join(write))), &b)
	for more {
		calls = append(calls, call{b.Op, b.Flags, b.Offset, b.Length})
		if b.Op == block.OpRead {
			for _, d := range b.Data {
				copy(d, bytes.Repeat([]byte{'R'}, len(d)))
			}
		}
		b.Status = st
		more = r.Next(&b)
	}
	written = r.Finish()
	return calls, written, join(whole)
}

func TestRequests(t *testing.T) {
	data := bytes.Repeat([]byte{'W'}, 1024)
	fua := rules
	fua.FUA = true
	poor := Rules{}
	for _, c := range []struct {
		name  string
		rules *Rules
		read  []byte
		write int // bytes
		st    block.Status
		calls []call
		end   Status
	}{
		{"in", &rules, header(0, 3), 1025, block.OK, []call{{block.OpRead, 0, 1536, 1024}}, StatusOK},
		{"in fails", &rules, header(0, 3), 1025, block.ENXIO, []call{{block.OpRead, 0, 1536, 1024}}, StatusIOErr},
		{"in of nothing", &rules, header(0, 3), 1, block.OK, nil, StatusOK},
		{"in of half a sector", &rules, header(0, 3), 257, block.OK, nil, StatusIOErr},
		{"in far away", &rules, header(0, 1<<55), 513, block.OK, nil, StatusIOErr},
		{"in at the far end", &rules, header(0, 1<<55-1), 513, block.OK, []call{{block.OpRead, 0, 1<<64 - 512, 512}}, StatusOK},
		{"in with data", &rules, append(header(0, 3), 1), 513, block.OK, nil, StatusIOErr},
		{"out", &rules, append(header(1, 9), data...), 1, block.OK, []call{{block.OpWrite, 0, 4608, 1024}}, StatusOK},
		{"out through", &fua, append(header(1, 9), data...), 1, block.OK, []call{{block.OpWrite, block.FUA, 4608, 1024}}, StatusOK},
		{"out not supported", &rules, append(header(1, 9), data...), 1, block.ENOTSUP, []call{{block.OpWrite, 0, 4608, 1024}}, StatusUnsupp},
		{"out of half a sector", &rules, append(header(1, 9), data[:511]...), 1, block.OK, nil, StatusIOErr},
		{"out with room", &rules, append(header(1, 9), data...), 3, block.OK, nil, StatusIOErr},
		{"flush", &rules, header(4, 0), 1, block.OK, []call{{block.OpFlush, 0, 0, 0}}, StatusOK},
		{"flush of a sector", &rules, header(4, 77), 1, block.OK, []call{{block.OpFlush, 0, 0, 0}}, StatusOK},
		{"flush fails", &rules, header(4, 0), 1, block.ENOSPC, []call{{block.OpFlush, 0, 0, 0}}, StatusIOErr},
		{"id", &rules, header(8, 0), 21, block.OK, nil, StatusOK},
		{"id in less", &rules, header(8, 0), 2, block.OK, nil, StatusOK},
		{"id in more", &rules, header(8, 0), 30, block.OK, nil, StatusOK},
		{"discard", &rules, append(header(11, 5), ranges(segment{8, 1000, 0})...), 1, block.OK,
			[]call{{block.OpDiscard, 0, 4096, 512000}}, StatusOK},
		{"discards", &fua, append(header(11, 0), ranges(segment{8, 1, 0}, segment{1, 0, 0}, segment{16, 2, 0})...), 1, block.OK,
			[]call{{block.OpDiscard, 0, 4096, 512}, {block.OpDiscard, 0, 8192, 1024}}, StatusOK},
		{"discards end at an error", &rules, append(header(11, 0), ranges(segment{8, 1, 0}, segment{16, 2, 0})...), 1, block.EIO,
			[]call{{block.OpDiscard, 0, 4096, 512}}, StatusIOErr},
		{"discard unmaps", &rules, append(header(11, 0), ranges(segment{8, 1, 0}, segment{8, 1, 1})...), 1, block.OK, nil, StatusUnsupp},
		{"discard with a flag", &rules, append(header(11, 0), ranges(segment{8, 1, 2})...), 1, block.OK, nil, StatusUnsupp},
		{"discard of nothing", &rules, append(header(11, 0), ranges(segment{8, 0, 0})...), 1, block.OK, nil, StatusOK},
		{"discard without a range", &rules, header(11, 0), 1, block.OK, nil, StatusIOErr},
		{"discard of half a range", &rules, append(header(11, 0), 1, 2, 3, 4, 5, 6, 7, 8), 1, block.OK, nil, StatusIOErr},
		{"discard too long", &rules, append(header(11, 0), ranges(segment{8, 1001, 0})...), 1, block.OK, nil, StatusIOErr},
		{"discard far away", &rules, append(header(11, 0), ranges(segment{1 << 55, 1, 0})...), 1, block.OK, nil, StatusIOErr},
		{"discard of too many", &rules, append(header(11, 0), ranges(make([]segment, 17)...)...), 1, block.OK, nil, StatusIOErr},
		{"discard not offered", &poor, append(header(11, 0), ranges(segment{8, 1, 0})...), 1, block.OK, nil, StatusUnsupp},
		{"zeroes", &rules, append(header(13, 0), ranges(segment{8, 2000, 0}, segment{8, 1, 1})...), 1, block.OK,
			[]call{{block.OpWriteZeroes, block.NoHole, 4096, 1024000}, {block.OpWriteZeroes, 0, 4096, 512}}, StatusOK},
		{"zeroes through", &fua, append(header(13, 0), ranges(segment{8, 1, 1})...), 1, block.OK,
			[]call{{block.OpWriteZeroes, block.FUA, 4096, 512}}, StatusOK},
		{"zeroes with a flag", &rules, append(header(13, 0), ranges(segment{8, 1, 0x80000000})...), 1, block.OK, nil, StatusUnsupp},
		{"zeroes too long", &rules, append(header(13, 0), ranges(segment{8, 2001, 0})...), 1, block.OK, nil, StatusIOErr},
		{"zeroes not offered", &poor, append(header(13, 0), ranges(segment{8, 1, 0})...), 1, block.OK, nil, StatusUnsupp},
		{"scsi", &rules, header(2, 0), 1, block.OK, nil, StatusUnsupp},
		{"barrier", &rules, header(1<<31|1, 0), 1, block.OK, nil, StatusUnsupp},
		{"secure erase", &rules, append(header(14, 0), ranges(segment{8, 1, 0})...), 1, block.OK, nil, StatusUnsupp},
		{"short header", &rules, header(4, 0)[:15], 1, block.OK, nil, StatusIOErr},
		{"no header", &rules, nil, 1, block.OK, nil, StatusIOErr},
		{"no status", &rules, header(4, 0), 0, block.OK, nil, StatusIOErr},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			for range 50 { // in any layout
				write := bytes.Repeat([]byte{0xaa}, c.write)
				calls, written, out := run(c.rules, chop(bytes.Clone(c.read), rng), chop(write, rng), c.st)
				if fmt.Sprint(calls) != fmt.Sprint(c.calls) {
					t.Fatalf("asked for %v, want %v", calls, c.calls)
				}
				if len(out) != c.write || written != uint32(c.write) {
					t.Fatalf("wrote %d bytes, want %d", written, c.write)
				}
				if c.write > 0 && Status(out[len(out)-1]) != c.end {
					t.Fatalf("status %d, want %d", out[len(out)-1], c.end)
				}
			}
		})
	}
}

func TestPayloadStaysWhereItIs(t *testing.T) {
	read := [][]byte{header(1, 0), bytes.Repeat([]byte{1}, 512), bytes.Repeat([]byte{2}, 512)}
	write := [][]byte{{0xff}}
	var r Request
	var b block.Request
	if !r.Begin(&rules, read, write, 1040, 1, &b) || len(b.Data) != 2 || &b.Data[0][0] != &read[1][0] || &b.Data[1][0] != &read[2][0] {
		t.Fatalf("%v: not the guest's own memory", b.Data)
	}
	r.Finish()

	reply := make([]byte, 1025)
	if !r.Begin(&rules, [][]byte{header(0, 0)}, [][]byte{reply}, 16, 1025, &b) || len(b.Data) != 1 || len(b.Data[0]) != 1024 {
		t.Fatalf("%d pieces", len(b.Data))
	}
	b.Data[0][1023] = 5
	b.Status = block.OK
	r.Next(&b)
	if n := r.Finish(); n != 1025 || reply[1023] != 5 || reply[1024] != 0 {
		t.Errorf("%d bytes written, the end is %v", n, reply[1022:])
	}
}

func TestSerial(t *testing.T) {
	for _, room := range []int{1, 2, 20, 30} {
		_, _, out := run(&rules, [][]byte{header(8, 0)}, [][]byte{bytes.Repeat([]byte{0xaa}, room), {0xaa}}, block.OK)
		want := append(append([]byte("s1"), make([]byte, 18)...), bytes.Repeat([]byte{0xaa}, 10)...)[:room]
		if !bytes.Equal(out[:room], want) {
			t.Errorf("%d bytes: %q", room, out)
		}
	}
}

func TestStatusOf(t *testing.T) {
	for st, want := range map[block.Status]Status{block.OK: 0, block.EIO: 1, block.ENOTSUP: 2, block.ENOSPC: 1, block.EINVAL: 1, 4000: 1} {
		if got := StatusOf(st); got != want {
			t.Errorf("%v: %d, want %d", st, got, want)
		}
	}
}

func TestAnswerable(t *testing.T) {
	var r Request
	var b block.Request
	for room, want := range map[string]bool{"": false, "x": true, "xxxx": true} {
		r.Begin(&rules, [][]byte{header(4, 0)}, [][]byte{{}, []byte(room), {}}, 16, uint64(len(room)), &b)
		if r.Answerable() != want {
			t.Errorf("%d bytes: %v", len(room), !want)
		}
		r.Finish()
	}
}

func TestFail(t *testing.T) {
	status := []byte{0xaa}
	var r Request
	var b block.Request
	r.Begin(&rules, [][]byte{header(4, 0)}, [][]byte{status}, 16, 1, &b)
	r.Fail()
	if r.Finish(); status[0] != 1 || r.Result() != StatusIOErr {
		t.Errorf("status %d", status[0])
	}
}

// FuzzRequest gives a device any bytes in any layout. Whatever they are, the
// device asks for what it has been told, within its limits, and writes to the
// status byte and a serial number's place only.
func FuzzRequest(f *testing.F) {
	f.Add(header(0, 1), 513, uint64(1), true)
	f.Add(append(header(1, 1), make([]byte, 512)...), 1, uint64(2), false)
	f.Add(append(header(11, 0), ranges(segment{1, 2, 0}, segment{3, 4, 0})...), 1, uint64(3), false)
	f.Add(append(header(13, 0), ranges(segment{1, 2, 1})...), 1, uint64(4), true)
	f.Add(header(8, 0), 21, uint64(5), true)
	f.Add([]byte{}, 0, uint64(6), true)
	f.Fuzz(func(t *testing.T, in []byte, room int, seed uint64, through bool) {
		if room < 0 || room > 1<<16 || len(in) > 1<<16 {
			return
		}
		rules := rules
		rules.FUA = through
		rng := rand.New(rand.NewPCG(seed, 0))
		read, write := chop(bytes.Clone(in), rng), chop(bytes.Repeat([]byte{0xaa}, room), rng)
		out := append([][]byte(nil), write...)
		var r Request
		var b block.Request
		n := 0
		for more := r.Begin(&rules, read, write, uint64(len(in)), uint64(room), &b); more; more = r.Next(&b) {
			if n++; n > maxRanges {
				t.Fatal("it does not end")
			}
			sum := uint64(0)
			for _, d := range b.Data {
				sum += uint64(len(d))
			}
			switch {
			case b.Op.HasPayload() && sum != b.Length:
				t.Fatalf("%v of %d bytes with %d", b.Op, b.Length, sum)
			case !b.Op.HasPayload() && b.Data != nil:
				t.Fatalf("%v with data", b.Op)
			case b.Op != block.OpFlush && (b.Length == 0 || b.Length%512 != 0 || b.Offset%512 != 0):
				t.Fatalf("%v of %d bytes at %d", b.Op, b.Length, b.Offset)
			case b.Op == block.OpDiscard && b.Length > 1000*512, b.Op == block.OpWriteZeroes && b.Length > 2000*512:
				t.Fatalf("%v of %d bytes", b.Op, b.Length)
			}
			b.Status = block.OK
		}
		if got := r.Finish(); got != uint32(room) {
			t.Fatalf("%d bytes written of %d", got, room)
		}
		end := join(out)
		if room == 0 {
			return
		}
		if st := end[room-1]; st > 2 || n > 0 && st != 0 || Status(st) != r.Result() {
			t.Fatalf("status %d after %d requests", st, n)
		}
		own := 0
		if len(in) >= 16 && binary.LittleEndian.Uint32(in) == 8 {
			own = min(IDSize, room-1)
		}
		if rest := end[own : room-1]; bytes.Count(rest, []byte{0xaa}) != len(rest) {
			t.Fatal("the device has written where nothing was for it to write")
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	h, data, status := header(0, 1), make([]byte, 4096), make([]byte, 1)
	read, write := make([][]byte, 1), make([][]byte, 2)
	var r Request
	var req block.Request
	b.ReportAllocs()
	for b.Loop() {
		read[0], write[0], write[1] = h, data, status
		if !r.Begin(&rules, read, write, 16, 4097, &req) {
			b.Fatal("refused")
		}
		req.Status = block.OK
		r.Next(&req)
		r.Finish()
	}
}
