package meter

// functionNames gives the contents of a "name" section that holds no more than
// the function names of the given one, nil when there are none or they are
// broken. Names serve traces only, so a broken list is dropped, not refused;
// but it must not reach a decoder that trusts its counts.
func (m *module) functionNames(s span) []byte {
	r := &reader{buf: m.bytes, pos: s.start, end: s.end, section: "name"}
	r.name("section name", m.lim.MaxNameBytes)
	for !r.done() {
		id := r.u8("subsection id")
		sub := r.sub(r.u32("subsection size"), "subsection")
		if id != 1 || !r.ok() {
			continue
		}
		body := m.bytes[sub.pos:sub.end]
		if !m.validNames(&sub) {
			return nil
		}
		out := appendName(nil, "name")
		out = append(out, 1)
		return appendBytes(out, body)
	}
	return nil
}

// validNames checks a map from function index to name: ascending, in range.
func (m *module) validNames(r *reader) bool {
	n := r.count("names", uint32(len(m.funcTypes)), 2)
	next := uint32(0)
	for i := 0; i < n && r.ok(); i++ {
		index := r.index("function", len(m.funcTypes))
		r.name("function name", m.lim.MaxNameBytes)
		if index < next {
			return false
		}
		next = index + 1
	}
	return r.ok() && r.left() == 0
}

// keepCustom says whether a custom section survives rewriting. Those that hold
// offsets into the code (debug information, relocations, hints) would lie.
func keepCustom(name string) bool {
	switch name {
	case "producers", "target_features":
		return true
	}
	return len(name) >= len(CustomPrefix) && name[:len(CustomPrefix)] == CustomPrefix
}
