package nbd

import "strings"

// metaContext handles LIST_META_CONTEXT and SET_META_CONTEXT ("Metadata
// querying"). There is one context, base:allocation.
func (h *handshake) metaContext(opt uint32, data []byte) {
	if opt == optSetMetaContext {
		h.meta = nil // also when this fails
	}
	if h.framing == simple {
		h.reply(opt, repErrInvalid, "negotiate structured replies or extended headers first")
		return
	}
	name, queries, ok := parseQueries(data)
	if !ok {
		h.reply(opt, repErrInvalid, "the lengths in the option do not add up")
		return
	}
	e := lookup(h.exports(), name)
	if e == nil {
		h.reply(opt, repErrUnknown, "there is no such export here")
		return
	}
	if !selects(opt, queries) {
		h.ack(opt)
		return
	}
	id := uint32(0) // reserved in a list
	if opt == optSetMetaContext {
		h.meta, id = e, baseAllocationID
	}
	h.head(opt, repMetaContext, 4+len(baseAllocation))
	h.out = be.AppendUint32(h.out, id)
	h.out = append(h.out, baseAllocation...)
	h.ack(opt)
}

// selects tells whether the queries ask for base:allocation. A list without
// queries, or with the namespace alone, asks for all that there is.
func selects(opt uint32, queries []string) bool {
	if opt == optListMetaContext && len(queries) == 0 {
		return true
	}
	for _, q := range queries {
		if q == baseAllocation || q == baseWildcard && opt == optListMetaContext {
			return true
		}
	}
	return false
}

// parseQueries takes the data of the two options apart. Only queries in our
// namespace are kept; data is at most maxOption bytes and so bounds them.
func parseQueries(data []byte) (name string, queries []string, ok bool) {
	n, data, ok := lengthOf(data)
	if !ok || len(data) < n+4 || n > maxString {
		return "", nil, false
	}
	name, data = string(data[:n]), data[n:]
	count := be.Uint32(data)
	data = data[4:]
	queries = []string{}
	for ; count > 0; count-- {
		if n, data, ok = lengthOf(data); !ok {
			return "", nil, false
		}
		if q := string(data[:n]); strings.HasPrefix(q, baseWildcard) {
			queries = append(queries, q)
		} else if len(queries) == 0 {
			queries = append(queries, "") // there was one, of somebody else's
		}
		data = data[n:]
	}
	return name, queries, len(data) == 0
}
