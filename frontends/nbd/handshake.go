package nbd

import (
	"errors"
	"fmt"

	"blockengine/sdk/block"
)

// Limits on what a client may make us hold or do before it has chosen an
// export, in bytes.
const (
	handshakeRoom = 8 << 10                          // all that is received at a time
	maxOption     = handshakeRoom - optionHeaderSize // an option's data
	maxSkip       = 1 << 20                          // data of an option that is not understood
	replyHigh     = 8 << 10                          // replies wait to be sent beyond this
)

// verdict is how a step of the handshake ended.
type verdict uint8

const (
	moreInput verdict = iota // nothing to do before more has been received
	again                    // a message was handled
	sendFirst                // replies have to be sent before the next step
	chosen                   // the client wants to use choice.export
	finished                 // the client leaves; send the replies and close
)

// handshake is one client's negotiation ("Fixed newstyle negotiation"): bytes
// in, bytes out, and a verdict. It knows no socket.
type handshake struct {
	exports  func() []*export
	greeted  bool // the client's flags have been received
	noZeroes bool
	framing  framing
	meta     *export // base:allocation was selected for it
	choice   choice

	skip      uint32 // bytes of data to be ignored
	skipOpt   uint32 // the option they belong to
	skipReply uint32 // its reply

	listing []*export // what LIST has yet to tell

	out []byte
}

// choice is what ends a handshake.
type choice struct {
	export *export
	option uint32
	infos  infoSet
}

// infoSet is a set of information types that a client has asked for.
type infoSet uint8

func (s infoSet) has(kind uint16) bool { return s&(1<<kind) != 0 }

func newHandshake(exports func() []*export) *handshake {
	h := &handshake{exports: exports}
	h.out = be.AppendUint64(h.out, magicGreeting)
	h.out = be.AppendUint64(h.out, magicOption)
	h.out = be.AppendUint16(h.out, flagFixedNewstyle|flagNoZeroes)
	return h
}

// step handles at most one message at the start of in, of which it used n
// bytes. An error is a violation after which the connection is closed.
func (h *handshake) step(in []byte) (n int, v verdict, err error) {
	switch {
	case len(h.out) >= replyHigh:
		return 0, sendFirst, nil
	case h.listing != nil:
		return 0, h.list(), nil
	case h.skip > 0:
		return h.ignore(in)
	case !h.greeted:
		return h.clientFlags(in)
	case len(in) < optionHeaderSize:
		return 0, moreInput, nil
	}
	if m := be.Uint64(in); m != magicOption {
		return 0, moreInput, fmt.Errorf("option magic %#x instead of %#x", m, magicOption)
	}
	opt, length := be.Uint32(in[8:]), be.Uint32(in[12:])
	if err := checkOption(opt, length); err != nil {
		return 0, moreInput, err
	}
	if reply := unanswerable(opt, length); reply != 0 {
		h.skip, h.skipOpt, h.skipReply = length, opt, reply
		used, v, err := h.ignore(in[optionHeaderSize:])
		return optionHeaderSize + used, v, err
	}
	size := optionHeaderSize + int(length)
	if len(in) < size {
		return 0, moreInput, nil
	}
	v, err = h.option(opt, in[optionHeaderSize:size])
	return size, v, err
}

// checkOption finds lengths after which there is nothing left to talk about.
func checkOption(opt, length uint32) error {
	if opt == optExportName && length > maxString {
		return fmt.Errorf("export name of %d bytes, more than %d", length, maxString)
	}
	if length > maxSkip {
		return fmt.Errorf("option %d with %d bytes of data, more than %d", opt, length, maxSkip)
	}
	return nil
}

// unanswerable gives the reply to an option whose data is not looked at.
// STARTTLS is one of them for as long as there is no TLS.
func unanswerable(opt, length uint32) uint32 {
	switch opt {
	case optExportName, optInfo, optGo, optListMetaContext, optSetMetaContext:
		if length > maxOption {
			return repErrTooBig
		}
		return 0
	case optAbort:
		return repAck
	case optList, optStructuredReply, optExtendedHeaders:
		if length > 0 {
			return repErrInvalid
		}
		return 0
	}
	return repErrUnsup
}

// ignore skips data and answers when all of it has come.
func (h *handshake) ignore(in []byte) (int, verdict, error) {
	n := min(int(h.skip), len(in))
	if h.skip -= uint32(n); h.skip > 0 {
		return n, moreInput, nil
	}
	if h.skipOpt == optAbort {
		h.ack(h.skipOpt)
		return n, finished, nil
	}
	h.reply(h.skipOpt, h.skipReply, optionHelp(h.skipReply))
	return n, again, nil
}

func optionHelp(reply uint32) string {
	switch reply {
	case repErrUnsup:
		return "this server does not know the option"
	case repErrTooBig:
		return fmt.Sprintf("this option may have %d bytes of data", maxOption)
	}
	return "this option has no data"
}

func (h *handshake) clientFlags(in []byte) (int, verdict, error) {
	if len(in) < 4 {
		return 0, moreInput, nil
	}
	flags := be.Uint32(in)
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return 0, moreInput, fmt.Errorf("client flags %#x, of which only %#x are known", flags, flagFixedNewstyle|flagNoZeroes)
	}
	h.greeted, h.noZeroes = true, flags&flagNoZeroes != 0
	return 4, again, nil
}

// option handles a whole option.
func (h *handshake) option(opt uint32, data []byte) (verdict, error) {
	switch opt {
	case optExportName:
		return h.exportName(string(data))
	case optList:
		if h.listing = h.exports(); len(h.listing) == 0 {
			h.listing = nil
			h.ack(opt)
		}
	case optInfo, optGo:
		return h.info(opt, data), nil
	case optStructuredReply:
		if h.framing == extended {
			h.reply(opt, repErrExtHeaderReqd, "extended headers are in use already")
			break
		}
		h.framing = structured
		h.ack(opt)
	case optExtendedHeaders:
		h.framing = extended
		h.ack(opt)
	case optListMetaContext, optSetMetaContext:
		h.metaContext(opt, data)
	}
	return again, nil
}

func (h *handshake) exportName(name string) (verdict, error) {
	if h.framing == extended {
		return again, errors.New("EXPORT_NAME after extended headers were negotiated")
	}
	e := lookup(h.exports(), name)
	if e == nil {
		return again, fmt.Errorf("EXPORT_NAME: unknown export %q", name)
	}
	h.choice = choice{export: e, option: optExportName}
	return chosen, nil
}

// list tells of as many exports as there is room for. What cannot be used yet
// is left out.
func (h *handshake) list() verdict {
	for len(h.listing) > 0 {
		if len(h.out) >= replyHigh {
			return sendFirst
		}
		e := h.listing[0]
		h.listing = h.listing[1:]
		if _, ok := e.Volume.Info(); !ok {
			continue
		}
		h.head(optList, repServer, 4+len(e.Name)+len(e.Description))
		h.out = be.AppendUint32(h.out, uint32(len(e.Name)))
		h.out = append(append(h.out, e.Name...), e.Description...)
	}
	h.listing = nil
	h.ack(optList)
	return again
}

// info handles INFO and GO.
func (h *handshake) info(opt uint32, data []byte) verdict {
	name, infos, ok := parseInfo(data)
	if !ok {
		h.reply(opt, repErrInvalid, "the lengths in the option do not add up")
		return again
	}
	e := lookup(h.exports(), name)
	if e == nil {
		h.reply(opt, repErrUnknown, "there is no such export here")
		return again
	}
	info, ok := e.Volume.Info()
	if !ok {
		h.reply(opt, repErrUnknown, notReady(e))
		return again
	}
	h.choice = choice{export: e, option: opt, infos: infos}
	if opt == optGo {
		return chosen
	}
	h.describe(&info)
	return again
}

// notReady is for a client that should try again later: the export exists, but
// its disk has not been seen yet.
func notReady(e *export) string {
	state, reason := e.Volume.State()
	text := "the export is not ready yet, try again: its volume is " + state.String()
	if reason != "" {
		text += ": " + reason
	}
	return text[:min(len(text), 1000)]
}

// parseInfo takes the data of INFO and GO apart.
func parseInfo(data []byte) (name string, infos infoSet, ok bool) {
	n, data, ok := lengthOf(data)
	if !ok || len(data) < n+2 || n > maxString {
		return "", 0, false
	}
	name, data = string(data[:n]), data[n:]
	count := int(be.Uint16(data))
	if data = data[2:]; len(data) != 2*count {
		return "", 0, false
	}
	for ; len(data) > 0; data = data[2:] {
		if kind := be.Uint16(data); kind < 8 {
			infos |= 1 << kind
		}
	}
	return name, infos, true
}

// lengthOf takes a 32-bit length that must not exceed what follows it.
func lengthOf(data []byte) (n int, rest []byte, ok bool) {
	if len(data) < 4 {
		return 0, nil, false
	}
	length := be.Uint32(data)
	rest = data[4:]
	return int(length), rest, uint64(length) <= uint64(len(rest))
}

// accept answers the choice: the client may go on to transmission.
func (h *handshake) accept(info *block.Info) {
	if h.choice.option != optExportName {
		h.describe(info)
		return
	}
	h.out = be.AppendUint64(h.out, info.Size)
	h.out = be.AppendUint16(h.out, h.choice.export.flags(info, h.framing))
	if !h.noZeroes {
		h.out = append(h.out, make([]byte, exportNamePadding)...)
	}
}

// refuse answers the choice with an error; ok is whether the protocol has one.
func (h *handshake) refuse(text string) (ok bool) {
	if h.choice.option == optExportName {
		return false
	}
	h.reply(h.choice.option, repErrUnknown, text)
	return true
}

// describe answers INFO and GO.
func (h *handshake) describe(info *block.Info) {
	e, opt, infos := h.choice.export, h.choice.option, h.choice.infos
	h.head(opt, repInfo, 12)
	h.out = be.AppendUint16(h.out, infoExport)
	h.out = be.AppendUint64(h.out, info.Size)
	h.out = be.AppendUint16(h.out, e.flags(info, h.framing))
	if infos.has(infoName) {
		h.infoText(opt, infoName, e.Name)
	}
	if infos.has(infoDescription) && e.Description != "" {
		h.infoText(opt, infoDescription, e.Description)
	}
	// Who may send 512-byte requests does no wrong until told otherwise, so
	// stricter limits are told unasked.
	if infos.has(infoBlockSize) || info.BlockSize > 512 {
		least, preferred, most := blockSizes(info)
		h.head(opt, repInfo, 14)
		h.out = be.AppendUint16(h.out, infoBlockSize)
		h.out = be.AppendUint32(h.out, least)
		h.out = be.AppendUint32(h.out, preferred)
		h.out = be.AppendUint32(h.out, most)
	}
	h.ack(opt)
}

func (h *handshake) infoText(opt uint32, kind uint16, text string) {
	h.head(opt, repInfo, 2+len(text))
	h.out = be.AppendUint16(h.out, kind)
	h.out = append(h.out, text...)
}

// head begins an option reply with length bytes of data to follow.
func (h *handshake) head(opt, kind uint32, length int) {
	h.out = be.AppendUint64(h.out, magicOptionReply)
	h.out = be.AppendUint32(h.out, opt)
	h.out = be.AppendUint32(h.out, kind)
	h.out = be.AppendUint32(h.out, uint32(length))
}

func (h *handshake) reply(opt, kind uint32, text string) {
	h.head(opt, kind, len(text))
	h.out = append(h.out, text...)
}

func (h *handshake) ack(opt uint32) { h.head(opt, repAck, 0) }
