package nbd

import (
	"strconv"

	"blockengine/sdk/block"
)

// maxWords bounds what is shown of a server's own text.
const maxWords = 200

// quote shows a string that a stranger may have chosen.
func quote(s string) string {
	if len(s) > maxWords {
		return strconv.Quote(s[:maxWords]) + "…"
	}
	return strconv.Quote(s)
}

func decimal(v uint64) string { return strconv.FormatUint(v, 10) }

// hex32 gives eight hexadecimal digits.
func hex32(v uint32) string {
	s := strconv.FormatUint(uint64(v), 16)
	return "00000000"[len(s):] + s
}

// words gives a server's own explanation in brackets, or nothing.
func words(data []byte) string {
	if len(data) == 0 {
		return ""
	}
	return " (it says " + quote(string(data)) + ")"
}

// parseUint reads a decimal number; "" is 0.
func parseUint(s string) (v uint32, ok bool) {
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

// remedy tells how to mend a wrong export name, from what LIST told.
func (c *conn) remedy() string {
	names := ""
	for i, n := range c.login.exports {
		if i > 0 {
			names += ", "
		}
		names += quote(n)
	}
	if c.login.unlisted {
		names += ", …"
	}
	if names == "" {
		return "; set volume.options." + optionExport + " to one that it has (it does not list them)"
	}
	return "; set volume.options." + optionExport + " to one of: " + names
}

func optionName(option uint32) string {
	switch option {
	case optExtendedHeaders:
		return "EXTENDED_HEADERS"
	case optStructuredReply:
		return "STRUCTURED_REPLY"
	case optSetMetaContext:
		return "SET_META_CONTEXT"
	case optGo:
		return "GO"
	case optList:
		return "LIST"
	}
	return "option " + decimal(uint64(option))
}

func refusalName(kind uint32) string {
	switch kind {
	case repErrUnsup:
		return "it does not support GO"
	case repErrPolicy:
		return "its policy forbids it"
	case repErrInvalid:
		return "it calls the request invalid"
	case repErrPlatform:
		return "its platform does not support it"
	case repErrBlockSizeReqd:
		return "it wants block sizes to be asked for"
	case repErrTooBig:
		return "it calls the request too big"
	case repErrExtHeaderReqd:
		return "it wants extended headers"
	}
	return "error " + decimal(uint64(kind&^repErr))
}

func statusOfRefusal(kind uint32) block.Status {
	switch kind {
	case repErrPolicy:
		return block.EACCES
	case repErrUnsup, repErrPlatform, repErrExtHeaderReqd:
		return block.ENOTSUP
	}
	return block.EINVAL
}

// describe names an outstanding request in a text.
func describe(s *slot) string {
	return "a " + s.op.String() + " of " + decimal(s.length) + " bytes at " + decimal(s.offset)
}
