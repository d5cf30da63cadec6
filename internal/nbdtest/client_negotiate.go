package nbdtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// OptReply is one reply to a handshake option.
type OptReply struct {
	Type uint32
	Data []byte
}

// Greet receives the server's greeting and answers with the client flags
// ("Newstyle negotiation"). An oldstyle or non-fixed server is an error.
func (c *Client) Greet() error {
	b, err := c.ReadRaw(16)
	if err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	if m := be.Uint64(b); m != MagicInit {
		return violation("greeting", "magic %#x", m)
	}
	if m := be.Uint64(b[8:]); m == MagicOldstyle {
		return errors.New("oldstyle server refused")
	} else if m != MagicOption {
		return violation("greeting", "second magic %#x", m)
	}
	if b, err = c.ReadRaw(2); err != nil {
		return fmt.Errorf("no handshake flags: %w", err)
	}
	c.Handshake = be.Uint16(b)
	if extra := c.Handshake &^ (HandshakeFixedNewstyle | HandshakeNoZeroes); extra != 0 {
		return violation("greeting", "unknown handshake flags %#x", extra)
	}
	return c.sendClientFlags()
}

func (c *Client) sendClientFlags() error {
	var flags uint32
	if c.Handshake&HandshakeFixedNewstyle != 0 {
		flags |= ClientFixedNewstyle
	}
	if c.Handshake&HandshakeNoZeroes != 0 && !c.opts.WithZeroes {
		flags |= ClientNoZeroes
		c.noZeroes = true
	}
	return c.WriteRaw(be.AppendUint32(nil, flags))
}

// Option sends an option and collects its replies up to the final one (ACK or an
// error). An error reply is an [*OptionError]; the replies before it are
// returned with it. EXPORT_NAME has no reply: see UseExportName.
func (c *Client) Option(opt uint32, data []byte) ([]OptReply, error) {
	if err := c.WriteRaw(EncodeOption(opt, data)); err != nil {
		return nil, err
	}
	var all []OptReply
	for {
		r, err := c.RecvOptReply(opt)
		if err != nil {
			return all, err
		}
		switch {
		case r.Type == RepAck:
			return all, nil
		case r.Type&repErrBit != 0:
			return all, &OptionError{Option: opt, Reply: r.Type, Message: string(r.Data)}
		}
		if all = append(all, r); len(all) > 10000 {
			return all, violation("option replies", "more than %d replies", len(all))
		}
	}
}

// RecvOptReply receives one reply to opt and checks its frame.
func (c *Client) RecvOptReply(opt uint32) (OptReply, error) {
	where := fmt.Sprintf("reply to option %d", opt)
	b, err := c.ReadRaw(sizeOptReply)
	if err != nil {
		return OptReply{}, fmt.Errorf("%s: %w", where, err)
	}
	if m := be.Uint64(b); m != MagicOptReply {
		return OptReply{}, violation(where, "magic %#x", m)
	}
	if got := be.Uint32(b[8:]); got != opt {
		return OptReply{}, violation(where, "names option %d", got)
	}
	r := OptReply{Type: be.Uint32(b[12:])}
	n := be.Uint32(b[16:])
	if n > maxRepLength {
		return r, violation(where, "length %d is beyond reason", n)
	}
	if r.Type == RepAck && n != 0 {
		return r, violation(where, "ACK with %d bytes of data", n)
	}
	if r.Data, err = c.ReadRaw(int(n)); err != nil {
		return r, fmt.Errorf("%s: %w", where, err)
	}
	return r, checkReplyType(where, opt, r)
}

// checkReplyType refuses reply types that the option does not have.
func checkReplyType(where string, opt uint32, r OptReply) error {
	ok := r.Type == RepAck || r.Type&repErrBit != 0
	switch opt {
	case OptList:
		ok = ok || r.Type == RepServer
	case OptInfo, OptGo:
		ok = ok || r.Type == RepInfo
	case OptListMetaContext, OptSetMetaContext:
		ok = ok || r.Type == RepMetaContext
	}
	if !ok {
		return violation(where, "reply type %#x does not belong to this option", r.Type)
	}
	if r.Type&repErrBit != 0 && (len(r.Data) > MaxString || !utf8.Valid(r.Data)) {
		return violation(where, "error message is not a string")
	}
	return nil
}

// noReplies wraps an option that is answered by ACK or an error alone.
func (c *Client) noReplies(opt uint32) error {
	_, err := c.Option(opt, nil)
	return err
}

// AskStructuredReply negotiates structured replies.
func (c *Client) AskStructuredReply() error {
	err := c.noReplies(OptStructuredReply)
	c.Structured = c.Structured || err == nil
	return err
}

// AskExtendedHeaders negotiates extended headers.
func (c *Client) AskExtendedHeaders() error {
	err := c.noReplies(OptExtendedHeaders)
	c.Extended = c.Extended || err == nil
	return err
}

// Abort ends the handshake politely and expects the server to close. A server
// that closes without an answer is tolerated, as the protocol text asks.
func (c *Client) Abort() error {
	if err := c.noReplies(OptAbort); err != nil {
		var bad *ProtocolError
		var refused *OptionError
		if errors.As(err, &bad) || errors.As(err, &refused) {
			return err
		}
		return c.ExpectClosed()
	}
	return c.ExpectClosed()
}

// ListedExport is one entry of LIST.
type ListedExport struct{ Name, Description string }

// List asks for the exports.
func (c *Client) List() ([]ListedExport, error) {
	replies, err := c.Option(OptList, nil)
	if err != nil {
		return nil, err
	}
	var list []ListedExport
	for _, r := range replies {
		if len(r.Data) < 4 || uint64(be.Uint32(r.Data)) > uint64(len(r.Data)-4) {
			return nil, violation("LIST", "name longer than the reply")
		}
		n := 4 + int(be.Uint32(r.Data))
		e := ListedExport{Name: string(r.Data[4:n]), Description: string(r.Data[n:])}
		if err := checkString("LIST name", e.Name); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

func checkString(where, s string) error {
	if len(s) > MaxString || !utf8.ValidString(s) || bytes.IndexByte([]byte(s), 0) >= 0 {
		return violation(where, "not a protocol string (%d bytes)", len(s))
	}
	return nil
}

// EncodeInfo gives the data of INFO and GO.
func EncodeInfo(name string, infos ...uint16) []byte {
	b := be.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = be.AppendUint16(b, uint16(len(infos)))
	for _, i := range infos {
		b = be.AppendUint16(b, i)
	}
	return b
}

// QueryInfo asks about an export without entering it.
func (c *Client) QueryInfo(name string, infos ...uint16) (ExportInfo, error) {
	return c.infoOption(OptInfo, name, infos)
}

// Go enters the transmission phase.
func (c *Client) Go(name string, infos ...uint16) error {
	info, err := c.infoOption(OptGo, name, infos)
	if err == nil {
		c.Info = info
	}
	return err
}

func (c *Client) infoOption(opt uint32, name string, infos []uint16) (ExportInfo, error) {
	replies, err := c.Option(opt, EncodeInfo(name, infos...))
	if err != nil {
		return ExportInfo{}, err
	}
	var info ExportInfo
	seen := map[uint16]bool{}
	for _, r := range replies {
		typ, err := parseInfo(&info, r.Data)
		if err != nil {
			return info, err
		}
		if seen[typ] {
			return info, violation("INFO", "information type %d sent twice", typ)
		}
		seen[typ] = true
	}
	if !seen[InfoExport] {
		return info, violation("INFO", "ACK without NBD_INFO_EXPORT")
	}
	return info, c.checkFlags(info.Flags)
}

func parseInfo(info *ExportInfo, b []byte) (uint16, error) {
	if len(b) < 2 {
		return 0, violation("INFO", "%d bytes", len(b))
	}
	typ, b := be.Uint16(b), b[2:]
	switch typ {
	case InfoExport:
		if len(b) != 10 {
			return typ, violation("NBD_INFO_EXPORT", "length %d", len(b)+2)
		}
		info.Size, info.Flags = be.Uint64(b), be.Uint16(b[8:])
	case InfoName:
		info.Name = string(b)
		return typ, checkString("NBD_INFO_NAME", info.Name)
	case InfoDescription:
		info.Description = string(b)
		return typ, checkString("NBD_INFO_DESCRIPTION", info.Description)
	case InfoBlockSize:
		if len(b) != 12 {
			return typ, violation("NBD_INFO_BLOCK_SIZE", "length %d", len(b)+2)
		}
		info.BlockSize = &BlockSize{be.Uint32(b), be.Uint32(b[4:]), be.Uint32(b[8:])}
		return typ, info.BlockSize.check()
	}
	return typ, nil
}

// check applies "Size constraints".
func (s BlockSize) check() error {
	const where = "NBD_INFO_BLOCK_SIZE"
	switch {
	case bits.OnesCount32(s.Min) != 1 || s.Min > 1<<16:
		return violation(where, "minimum %d is no power of two up to 65536", s.Min)
	case bits.OnesCount32(s.Preferred) != 1 || s.Preferred < max(s.Min, 512):
		return violation(where, "preferred %d is no power of two from max(minimum, 512)", s.Preferred)
	case s.MaxPayload < s.Preferred:
		return violation(where, "maximum payload %d below preferred %d", s.MaxPayload, s.Preferred)
	}
	return nil
}

// checkFlags applies the dependencies between transmission flags.
func (c *Client) checkFlags(f uint16) error {
	const where = "transmission flags"
	switch {
	case f&FlagHasFlags == 0:
		return violation(where, "NBD_FLAG_HAS_FLAGS is not set in %#x", f)
	case f&FlagSendDF != 0 && !c.Structured && !c.Extended:
		return violation(where, "SEND_DF without structured replies")
	case f&FlagSendFastZero != 0 && f&FlagSendWriteZeroes == 0:
		return violation(where, "FAST_ZERO without WRITE_ZEROES")
	case f&FlagBlockStatusPayload != 0 && !c.Extended:
		return violation(where, "BLOCK_STATUS_PAYLOAD without extended headers")
	}
	return nil
}

// UseExportName enters the transmission phase the old way.
func (c *Client) UseExportName(name string) error {
	if c.Extended {
		return errors.New("EXPORT_NAME is not allowed with extended headers")
	}
	if err := c.WriteRaw(EncodeOption(OptExportName, []byte(name))); err != nil {
		return err
	}
	b, err := c.ReadRaw(10)
	if err != nil {
		return fmt.Errorf("EXPORT_NAME %q refused: %w", name, err)
	}
	c.Info = ExportInfo{Size: be.Uint64(b), Flags: be.Uint16(b[8:])}
	if !c.noZeroes {
		zeroes, err := c.ReadRaw(sizeZeroes)
		if err != nil {
			return err
		}
		if !isZero(zeroes) {
			return violation("EXPORT_NAME", "padding is not zero")
		}
	}
	return c.checkFlags(c.Info.Flags)
}

// EncodeMeta gives the data of LIST_META_CONTEXT and SET_META_CONTEXT.
func EncodeMeta(export string, queries ...string) []byte {
	b := be.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = be.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = be.AppendUint32(b, uint32(len(q)))
		b = append(b, q...)
	}
	return b
}

// SetMetaContext selects metadata contexts; what the server accepted is in
// Contexts.
func (c *Client) SetMetaContext(export string, queries ...string) error {
	c.Contexts = map[uint32]string{}
	replies, err := c.Option(OptSetMetaContext, EncodeMeta(export, queries...))
	if err != nil {
		return err
	}
	for _, r := range replies {
		id, name, err := parseMeta(r.Data)
		if err != nil {
			return err
		}
		if _, dup := c.Contexts[id]; dup {
			return violation("SET_META_CONTEXT", "context id %d is not unique", id)
		}
		c.Contexts[id] = name
	}
	return nil
}

// ListMetaContext lists the contexts that match the queries (none: all).
func (c *Client) ListMetaContext(export string, queries ...string) ([]string, error) {
	replies, err := c.Option(OptListMetaContext, EncodeMeta(export, queries...))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range replies {
		_, name, err := parseMeta(r.Data)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

func parseMeta(b []byte) (uint32, string, error) {
	if len(b) < 4 {
		return 0, "", violation("NBD_REP_META_CONTEXT", "%d bytes", len(b))
	}
	name := string(b[4:])
	if bytes.IndexByte(b[4:], ':') <= 0 {
		return 0, "", violation("NBD_REP_META_CONTEXT", "%q has no namespace", name)
	}
	return be.Uint32(b), name, checkString("NBD_REP_META_CONTEXT", name)
}
