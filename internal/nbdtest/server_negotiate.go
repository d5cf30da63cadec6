package nbdtest

import (
	"errors"
	"fmt"
	"io"
)

// errHandshakeOver ends a connection in the handshake without blame.
var errHandshakeOver = errors.New("the handshake ended without transmission")

func (c *serverConn) send(b []byte) error {
	_, err := c.conn.Write(b)
	return err
}

// handshake brings the connection to the transmission phase; nil: it is there.
func (c *serverConn) handshake() error {
	if c.neg.Oldstyle {
		return c.oldstyle()
	}
	flags := HandshakeFixedNewstyle | HandshakeNoZeroes
	if c.neg.NotFixed {
		flags &^= HandshakeFixedNewstyle
	}
	if c.neg.KeepZeroes {
		flags &^= HandshakeNoZeroes
	}
	b := be.AppendUint64(nil, MagicInit)
	b = be.AppendUint64(b, MagicOption)
	if err := c.send(be.AppendUint16(b, flags)); err != nil {
		return err
	}
	var reply [4]byte
	if _, err := io.ReadFull(c.conn, reply[:]); err != nil {
		return err
	}
	client := be.Uint32(reply[:])
	if extra := client &^ uint32(flags); extra != 0 {
		return violation("client flags", "%#x were not offered", extra)
	}
	c.noZeroes = client&ClientNoZeroes != 0
	return c.options()
}

// oldstyle greets as servers before 2.9.17 did and expects to be left alone.
func (c *serverConn) oldstyle() error {
	b := be.AppendUint64(nil, MagicInit)
	b = be.AppendUint64(b, MagicOldstyle)
	b = be.AppendUint64(b, c.exports[0].size())
	b = be.AppendUint16(b, 0)
	b = be.AppendUint16(b, c.exports[0].flags())
	if err := c.send(append(b, make([]byte, sizeZeroes)...)); err != nil {
		return err
	}
	io.Copy(io.Discard, c.conn)
	return errHandshakeOver
}

func (c *serverConn) options() error {
	for {
		var h [sizeOption]byte
		if _, err := io.ReadFull(c.conn, h[:]); err != nil {
			return err
		}
		if m := be.Uint64(h[:]); m != MagicOption {
			return violation("option", "magic %#x", m)
		}
		opt, n := be.Uint32(h[8:]), be.Uint32(h[12:])
		if n > maxOptLength {
			return violation("option", "option %d with %d bytes of data", opt, n)
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(c.conn, data); err != nil {
			return err
		}
		if over, err := c.option(opt, data); over || err != nil {
			return err
		}
	}
}

// reply sends one option reply.
func (c *serverConn) reply(opt, typ uint32, data []byte) error {
	b := be.AppendUint64(nil, MagicOptReply)
	b = be.AppendUint32(b, opt)
	b = be.AppendUint32(b, typ)
	b = be.AppendUint32(b, uint32(len(data)))
	return c.send(append(b, data...))
}

// refused says whether the configuration refuses an option, and how.
func (c *serverConn) refused(opt uint32) (uint32, bool) {
	if typ, ok := c.neg.Refuse[opt]; ok {
		return typ, true
	}
	n := &c.neg
	switch {
	case n.NoList && opt == OptList:
		return RepErrPolicy, true
	case n.NoGo && (opt == OptGo || opt == OptInfo),
		n.NoStructured && opt == OptStructuredReply,
		n.NoMeta && (opt == OptListMetaContext || opt == OptSetMetaContext),
		!n.ExtendedHeaders && opt == OptExtendedHeaders:
		return RepErrUnsup, true
	}
	return 0, false
}

// option handles one option; over says that transmission begins.
func (c *serverConn) option(opt uint32, data []byte) (over bool, err error) {
	if typ, no := c.refused(opt); no {
		return false, c.reply(opt, typ, nil)
	}
	if c.neg.NotFixed && opt != OptExportName {
		return false, violation("option", "option %d to a server that is not fixed newstyle", opt)
	}
	switch opt {
	case OptExportName:
		return true, c.optExportName(string(data))
	case OptGo, OptInfo:
		return c.optInfo(opt, data)
	case OptAbort:
		return false, errors.Join(c.reply(opt, RepAck, nil), errHandshakeOver)
	case OptList:
		return false, c.optList(data)
	case OptStructuredReply, OptExtendedHeaders:
		return false, c.optStyle(opt, data)
	case OptListMetaContext, OptSetMetaContext:
		return false, c.optMeta(opt, data)
	}
	return false, c.reply(opt, RepErrUnsup, nil)
}

func (c *serverConn) find(name string) *Export {
	for i := range c.exports {
		if c.exports[i].Name == name {
			return &c.exports[i]
		}
	}
	if c.neg.AnyName {
		return &c.exports[0]
	}
	return nil
}

// flags of an export as this client may see them.
func (c *serverConn) flags(e *Export) uint16 {
	f := e.flags()
	if !c.structured && !c.extended {
		f &^= FlagSendDF
	}
	return f
}

func (c *serverConn) optExportName(name string) error {
	if c.extended {
		return violation("EXPORT_NAME", "used after extended headers were negotiated")
	}
	if c.export = c.find(name); c.export == nil {
		return errHandshakeOver
	}
	b := be.AppendUint64(nil, c.export.size())
	b = be.AppendUint16(b, c.flags(c.export))
	if !c.noZeroes {
		b = append(b, make([]byte, sizeZeroes)...)
	}
	c.enter(name)
	return c.send(b)
}

// enter is called when the export is settled: metadata must have been selected
// for the same export name.
func (c *serverConn) enter(name string) {
	if c.metaID != 0 && c.metaExport != name {
		c.metaID = 0
	}
}

func (c *serverConn) optList(data []byte) error {
	if len(data) > 0 {
		c.note(violation("LIST", "%d bytes of data", len(data)))
		return c.reply(OptList, RepErrInvalid, nil)
	}
	for _, e := range c.exports {
		b := be.AppendUint32(nil, uint32(len(e.Name)))
		b = append(append(b, e.Name...), e.Description...)
		if err := c.reply(OptList, RepServer, b); err != nil {
			return err
		}
	}
	return c.reply(OptList, RepAck, nil)
}

func (c *serverConn) optStyle(opt uint32, data []byte) error {
	switch {
	case len(data) > 0:
		c.note(violation("option", "option %d with data", opt))
		return c.reply(opt, RepErrInvalid, nil)
	case opt == OptExtendedHeaders:
		c.extended = true
	case c.extended:
		return c.reply(opt, RepErrExtHeaderReqd, nil)
	default:
		c.structured = true
	}
	return c.reply(opt, RepAck, nil)
}

// decodeInfo is the inverse of EncodeInfo.
func decodeInfo(b []byte) (string, map[uint16]bool, error) {
	bad := violation("INFO or GO", "malformed data of %d bytes", len(b))
	if len(b) < 6 || uint64(be.Uint32(b)) > uint64(len(b)-6) {
		return "", nil, bad
	}
	n := int(be.Uint32(b))
	name, b := string(b[4:4+n]), b[4+n:]
	if len(b) != 2+2*int(be.Uint16(b)) {
		return "", nil, bad
	}
	infos := map[uint16]bool{}
	for b = b[2:]; len(b) > 0; b = b[2:] {
		if infos[be.Uint16(b)] {
			return "", nil, violation("INFO or GO", "information %d asked for twice", be.Uint16(b))
		}
		infos[be.Uint16(b)] = true
	}
	return name, infos, nil
}

func (c *serverConn) optInfo(opt uint32, data []byte) (bool, error) {
	name, asked, err := decodeInfo(data)
	if err != nil {
		c.note(err)
		return false, c.reply(opt, RepErrInvalid, nil)
	}
	e := c.find(name)
	if e == nil {
		return false, c.reply(opt, RepErrUnknown, []byte(fmt.Sprintf("no export %q", name)))
	}
	if err := c.sendInfos(opt, e, asked); err != nil {
		return false, err
	}
	if c.neg.NeedBlockSize && !asked[InfoBlockSize] {
		return false, c.reply(opt, RepErrBlockSizeReqd, nil)
	}
	if opt == OptGo {
		c.export, c.askedSizes = e, asked[InfoBlockSize]
		c.enter(name)
	}
	return opt == OptGo, c.reply(opt, RepAck, nil)
}

func (c *serverConn) sendInfos(opt uint32, e *Export, asked map[uint16]bool) error {
	b := be.AppendUint16(nil, InfoExport)
	b = be.AppendUint64(b, e.size())
	infos := [][]byte{be.AppendUint16(b, c.flags(e))}
	if asked[InfoName] {
		infos = append(infos, append(be.AppendUint16(nil, InfoName), e.Name...))
	}
	if asked[InfoDescription] && e.Description != "" {
		infos = append(infos, append(be.AppendUint16(nil, InfoDescription), e.Description...))
	}
	if s := e.BlockSize; s != nil && (asked[InfoBlockSize] || c.neg.NeedBlockSize) {
		b := be.AppendUint16(nil, InfoBlockSize)
		for _, v := range []uint32{s.Min, s.Preferred, s.MaxPayload} {
			b = be.AppendUint32(b, v)
		}
		infos = append(infos, b)
	}
	for _, i := range infos {
		if err := c.reply(opt, RepInfo, i); err != nil {
			return err
		}
	}
	return nil
}

// decodeMeta is the inverse of EncodeMeta.
func decodeMeta(b []byte) (export string, queries []string, ok bool) {
	str := func() (s string) {
		if ok = ok && len(b) >= 4 && uint64(be.Uint32(b)) <= uint64(len(b)-4); ok {
			n := 4 + int(be.Uint32(b))
			s, b = string(b[4:n]), b[n:]
		}
		return s
	}
	ok = true
	export = str()
	if !ok || len(b) < 4 {
		return "", nil, false
	}
	n := be.Uint32(b)
	for b = b[4:]; ok && n > 0; n-- {
		queries = append(queries, str())
	}
	return export, queries, ok && len(b) == 0
}

func (c *serverConn) optMeta(opt uint32, data []byte) error {
	if opt == OptSetMetaContext {
		c.metaID = 0 // also when this fails
	}
	export, queries, ok := decodeMeta(data)
	switch {
	case !ok:
		c.note(violation("META_CONTEXT", "malformed data of %d bytes", len(data)))
		return c.reply(opt, RepErrInvalid, nil)
	case !c.structured && !c.extended:
		c.note(violation("META_CONTEXT", "before structured replies or extended headers"))
		return c.reply(opt, RepErrInvalid, nil)
	case c.find(export) == nil:
		return c.reply(opt, RepErrUnknown, nil)
	}
	if !wantsAllocation(opt, queries) {
		return c.reply(opt, RepAck, nil)
	}
	id := uint32(0)
	if opt == OptSetMetaContext {
		// Ids differ per connection, so that none can be taken for granted.
		id = 0x5e1d0000 + uint32(c.num)
		c.metaID, c.metaExport = id, export
	}
	if err := c.reply(opt, RepMetaContext, append(be.AppendUint32(nil, id), BaseAllocation...)); err != nil {
		return err
	}
	return c.reply(opt, RepAck, nil)
}

func wantsAllocation(opt uint32, queries []string) bool {
	if opt == OptListMetaContext && len(queries) == 0 {
		return true
	}
	for _, q := range queries {
		if q == BaseAllocation || (opt == OptListMetaContext && q == "base:") {
			return true
		}
	}
	return false
}
