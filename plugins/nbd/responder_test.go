package nbd

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"

	"blockengine/sdk/sdktest"
)

var be = binary.BigEndian

// responder is an NBD server in memory: it is given bytes and answers bytes.
// It has its own numbers, written out, so that a wrong constant in the plugin
// does not hide.
type responder struct {
	disk      []byte
	zero      []bool // per 512 bytes
	exports   []string
	flags     uint16
	noGo      bool
	notFixed  bool
	keepZeros bool
	form      int // the best that it has: 0 simple, 1 structured, 2 extended
	noMeta    bool
	noSizes   bool
	canonical string
	scatter   *rand.Rand               // reads come as several chunks in random order
	answerOpt map[uint32]func() []byte // overrides the answer to an option
	fault     func(cmd uint16, cookie []byte, offset, length uint64) []byte

	in       []byte
	phase    int // 0 client flags, 1 options, 2 transmission
	agreed   int
	started  bool
	commands []uint16 // flags<<8 | type, as they came
	aborted  bool
	gone     bool
}

const allFlags = 1<<0 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<8 | 1<<10 | 1<<11

func newResponder(form int) *responder { return newResponderOf(form, 8<<20) }

func newResponderOf(form int, size int) *responder {
	return &responder{
		disk: make([]byte, size), zero: make([]bool, size/512), exports: []string{"", "disk0"},
		flags: allFlags, form: form,
	}
}

// dial makes another connection to the same disk.
func (r *responder) dial() sdktest.Server {
	c := *r
	c.in, c.phase, c.agreed, c.started = nil, 0, 0, false
	return sdktest.Answers(c.serve)
}

func (r *responder) serve(b []byte) (out []byte, closed bool) {
	if !r.started {
		r.started = true
		out = r.greeting()
	}
	r.in = append(r.in, b...)
	for !r.gone {
		n, answer := r.step()
		out = append(out, answer...)
		if n == 0 {
			break
		}
		r.in = r.in[n:]
	}
	return out, r.gone
}

// greeting is what a server sends first.
func (r *responder) greeting() []byte {
	b := []byte("NBDMAGICIHAVEOPT")
	flags := uint16(3)
	if r.notFixed {
		flags &^= 1
	}
	if r.keepZeros {
		flags &^= 2
	}
	return be.AppendUint16(b, flags)
}

func (r *responder) step() (int, []byte) {
	switch {
	case r.phase == 0 && len(r.in) >= 4:
		r.phase = 1
		return 4, nil
	case r.phase == 1 && len(r.in) >= 16:
		n := 16 + int(be.Uint32(r.in[12:]))
		if len(r.in) < n {
			return 0, nil
		}
		return n, r.option(be.Uint32(r.in[8:]), r.in[16:n])
	case r.phase == 2:
		return r.request()
	}
	return 0, nil
}

func optReply(option, kind uint32, data []byte) []byte {
	b := be.AppendUint64(nil, 0x3e889045565a9)
	b = be.AppendUint32(be.AppendUint32(b, option), kind)
	return append(be.AppendUint32(b, uint32(len(data))), data...)
}

const (
	ack   = 1
	unsup = 1<<31 + 1
)

func (r *responder) option(option uint32, data []byte) []byte {
	if f := r.answerOpt[option]; f != nil {
		return f()
	}
	switch {
	case option == 1:
		r.phase = 2
		b := be.AppendUint16(be.AppendUint64(nil, uint64(len(r.disk))), r.flags)
		if r.keepZeros {
			b = append(b, make([]byte, 124)...)
		}
		if !slices.Contains(r.exports, string(data)) {
			r.gone = true
			return nil
		}
		return b
	case option == 2:
		r.aborted, r.gone = true, true
		return optReply(option, ack, nil)
	case option == 3:
		return r.list()
	case option == 7 && !r.noGo:
		return r.goReply(data)
	case option == 8 && r.form >= 1:
		r.agreed = max(r.agreed, 1)
		return optReply(option, ack, nil)
	case option == 11 && r.form >= 2:
		r.agreed = 2
		return optReply(option, ack, nil)
	case option == 10 && r.agreed >= 1 && !r.noMeta:
		context := append(be.AppendUint32(nil, 77), "base:allocation"...)
		return append(optReply(option, 4, context), optReply(option, ack, nil)...)
	}
	return optReply(option, unsup, []byte("not here"))
}

func (r *responder) list() (b []byte) {
	for _, e := range r.exports {
		b = append(b, optReply(3, 2, append(be.AppendUint32(nil, uint32(len(e))), e...))...)
	}
	return append(b, optReply(3, ack, nil)...)
}

func (r *responder) goReply(data []byte) []byte {
	name := string(data[4 : 4+be.Uint32(data)])
	if !slices.Contains(r.exports, name) {
		return optReply(7, 1<<31+6, []byte("never heard of it"))
	}
	r.phase = 2
	info := be.AppendUint64(be.AppendUint16(nil, 0), uint64(len(r.disk)))
	b := optReply(7, 3, be.AppendUint16(info, r.flags))
	if !r.noSizes {
		sizes := be.AppendUint32(be.AppendUint16(nil, 3), 1)
		b = append(b, optReply(7, 3, be.AppendUint32(be.AppendUint32(sizes, 4096), 32<<20))...)
	}
	if r.canonical != "" {
		b = append(b, optReply(7, 3, append(be.AppendUint16(nil, 1), r.canonical...))...)
	}
	b = append(b, optReply(7, 3, append(be.AppendUint16(nil, 99), "unknown"...))...)
	return append(b, optReply(7, ack, nil)...)
}

// request handles one request of the transmission phase.
func (r *responder) request() (int, []byte) {
	size, magic := 28, uint32(0x25609513)
	if r.agreed == 2 {
		size, magic = 32, 0x21e41c71
	}
	if len(r.in) < size {
		return 0, nil
	}
	h := r.in[:size]
	flags, cmd, cookie, offset := be.Uint16(h[4:]), be.Uint16(h[6:]), h[8:16], be.Uint64(h[16:])
	length := uint64(be.Uint32(h[24:]))
	if size == 32 {
		length = be.Uint64(h[24:])
	}
	n := size
	if cmd == 1 {
		n += int(length)
		if len(r.in) < n {
			return 0, nil
		}
	}
	if be.Uint32(h) != magic || offset+length > uint64(len(r.disk)) || (flags&32 != 0) != (cmd == 1 && size == 32) {
		r.gone = true // a client that does this is broken
		return 0, nil
	}
	r.commands = append(r.commands, flags<<8|cmd)
	if r.fault != nil {
		if b := r.fault(cmd, cookie, offset, length); b != nil {
			return n, b
		}
	}
	return n, r.execute(cmd, flags, cookie, offset, length, r.in[size:n])
}

func (r *responder) execute(cmd, flags uint16, cookie []byte, offset, length uint64, data []byte) []byte {
	switch cmd {
	case 0:
		return r.read(cookie, offset, length)
	case 1:
		copy(r.disk[offset:], data)
		r.mark(offset, length, false)
	case 2:
		r.gone = true
		return nil
	case 3, 5:
	case 4, 6:
		clear(r.disk[offset : offset+length])
		r.mark(offset, length, true)
	case 7:
		return r.status(flags, cookie, offset, length)
	default:
		return r.error(cookie, 22, offset)
	}
	if r.agreed == 2 {
		return r.chunk(cookie, 1, 0, offset, nil)
	}
	return append(be.AppendUint32(be.AppendUint32(nil, 0x67446698), 0), cookie...)
}

func (r *responder) mark(offset, length uint64, zero bool) {
	for i := offset / 512; i*512 < offset+length; i++ {
		whole := i*512 >= offset && (i+1)*512 <= offset+length
		if !zero || whole {
			r.zero[i] = zero
		}
	}
}

func (r *responder) error(cookie []byte, errno uint32, offset uint64) []byte {
	if r.agreed == 0 {
		return append(be.AppendUint32(be.AppendUint32(nil, 0x67446698), errno), cookie...)
	}
	return r.chunk(cookie, 1, 1<<15+1, offset, append(be.AppendUint16(be.AppendUint32(nil, errno), 4), "oops"...))
}

// chunk makes a structured or extended reply chunk.
func (r *responder) chunk(cookie []byte, flags, kind uint16, offset uint64, payload []byte) []byte {
	magic := uint32(0x668e33ef)
	if r.agreed == 2 {
		magic = 0x6e8a278c
	}
	b := be.AppendUint16(be.AppendUint16(be.AppendUint32(nil, magic), flags), kind)
	b = append(b, cookie...)
	if r.agreed == 2 {
		b = be.AppendUint64(be.AppendUint64(b, offset), uint64(len(payload)))
	} else {
		b = be.AppendUint32(b, uint32(len(payload)))
	}
	return append(b, payload...)
}

func (r *responder) read(cookie []byte, offset, length uint64) (out []byte) {
	if r.agreed == 0 {
		out = append(be.AppendUint32(be.AppendUint32(nil, 0x67446698), 0), cookie...)
		return append(out, r.disk[offset:offset+length]...)
	}
	if r.scatter == nil {
		return r.chunk(cookie, 1, 1, offset, append(be.AppendUint64(nil, offset), r.disk[offset:offset+length]...))
	}
	var parts [][]byte
	for at := offset; at < offset+length; {
		n := min(offset+length-at, 1+r.scatter.Uint64N(max(700, length/200)))
		data := r.disk[at : at+n]
		if !slices.ContainsFunc(data, func(c byte) bool { return c != 0 }) {
			parts = append(parts, r.chunk(cookie, 0, 2, offset, be.AppendUint32(be.AppendUint64(nil, at), uint32(n))))
		} else {
			parts = append(parts, r.chunk(cookie, 0, 1, offset, append(be.AppendUint64(nil, at), data...)))
		}
		at += n
	}
	r.scatter.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	parts = append(parts, r.chunk(cookie, 1, 0, offset, nil))
	return slices.Concat(parts...)
}

// status describes a range in steps of 512 bytes, and some way beyond it.
func (r *responder) status(flags uint16, cookie []byte, offset, length uint64) []byte {
	p := be.AppendUint32(nil, 77)
	var extents []byte
	count := uint32(0)
	end := min(offset+length+4096, uint64(len(r.disk)))
	for at := offset; at < offset+length; {
		n := min(512-at%512, end-at)
		if at+n == offset+length {
			n = end - at // the last may go on behind the request
		}
		state := uint32(0)
		if r.zero[at/512] {
			state = 3
		}
		if at+n > offset+length {
			state |= 1 << 7 // unknown flags are to be ignored
		}
		if flags&8 != 0 {
			n = min(n, length)
		}
		if r.agreed == 2 {
			extents = be.AppendUint64(be.AppendUint64(extents, n), uint64(state))
		} else {
			extents = be.AppendUint32(be.AppendUint32(extents, uint32(n)), state)
		}
		count++
		at += n
		if flags&8 != 0 {
			break
		}
	}
	if r.agreed == 2 {
		p = be.AppendUint32(p, count)
		return r.chunk(cookie, 1, 6, offset, append(p, extents...))
	}
	return append(r.chunk(cookie, 0, 5, offset, append(p, extents...)), r.chunk(cookie, 1, 0, offset, nil)...)
}
