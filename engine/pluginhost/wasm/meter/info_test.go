package meter

import (
	"bytes"
	"reflect"
	"testing"
)

// TestInfo: what is declared is told, as it was before rewriting.
func TestInfo(t *testing.T) {
	module := append(wasmFile(t, "start"), custom("blockengine.manifest", 1, 2, 3)...)
	module = append(module, custom("other", 4)...)
	_, info, err := Rewrite(module, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	want := &Info{
		Imports:        []Import{{Module: "env", Name: "rounds", Kind: KindFunc, Type: FuncType{Results: []ValueType{I64}}}},
		Exports:        []Export{{Name: "done", Kind: KindGlobal}},
		Functions:      1,
		HasStart:       true,
		CustomSections: []CustomSection{{Name: "blockengine.manifest", Data: []byte{1, 2, 3}}},
		StackBytes:     info.StackBytes,
	}
	if !reflect.DeepEqual(info, want) {
		t.Errorf("info %+v, want %+v", info, want)
	}
	if info.Export("done") == nil || info.Export("absent") != nil {
		t.Error("Export finds the wrong ones")
	}
	clear(module)
	if !bytes.Equal(info.CustomSections[0].Data, []byte{1, 2, 3}) {
		t.Error("custom sections share memory with the module")
	}
}

// TestWrapKeepsTypes: a wrapper has the original's type and a budget in front;
// names that are no functions are left alone.
func TestWrapKeepsTypes(t *testing.T) {
	out := rewrite(t, wasmFile(t, "header"), DefaultLimits(), "one", "memory", "absent")
	lim := DefaultLimits()
	m, err := decode(stripMeter(t, out), lim)
	if err != nil {
		t.Fatal(err)
	}
	one, many := m.info().Export("one"), m.info().Export("many")
	want := []ValueType{I64, I32, I32, I64, I64, I32}
	if !reflect.DeepEqual(one.Type.Params, want) || !reflect.DeepEqual(one.Type.Results, []ValueType{I32}) {
		t.Errorf("one has type %v", one.Type)
	}
	if len(many.Type.Params) != 2 {
		t.Errorf("many has type %v, though it was not wrapped", many.Type)
	}
}

// stripMeter renames the reserved exports, so that a result can be inspected.
func stripMeter(t *testing.T, module []byte) []byte {
	t.Helper()
	out := bytes.ReplaceAll(module, []byte(reservedPrefix), []byte("blockengine.other"))
	if bytes.Equal(out, module) {
		t.Error("the result exports no meter")
	}
	return out
}

// TestRewriteTwiceIsRefused: a rewritten module is no input.
func TestRewriteTwiceIsRefused(t *testing.T) {
	refused(t, "rewritten", rewrite(t, withBody(), DefaultLimits()), ErrReserved, ExportBudget)
}

// TestCaps: the sizes that the result declares.
func TestCaps(t *testing.T) {
	lim := DefaultLimits()
	lim.MemoryPages, lim.MaxTableEntries = 10, 20
	for _, c := range []struct {
		memory, table []byte
		pages, rows   uint32
	}{
		{[]byte{0, 1}, []byte{0x70, 0, 1}, 10, 20},
		{[]byte{1, 1, 5}, []byte{0x70, 1, 1, 5}, 5, 5},
		{[]byte{1, 1, 50}, []byte{0x6f, 1, 20, 50}, 10, 20},
	} {
		module := build(section(secTable, vector(c.table)), section(secMemory, vector(c.memory)))
		out, info, err := Rewrite(module, lim)
		if err != nil {
			t.Fatal(err)
		}
		m, err := decode(stripMeter(t, out), lim)
		if err != nil {
			t.Fatal(err)
		}
		if m.memories[0].max != c.pages || info.MemoryMax != c.pages || m.tables[0].max != c.rows {
			t.Errorf("memory %v table %v: %d pages (info %d), %d entries; want %d and %d",
				c.memory, c.table, m.memories[0].max, info.MemoryMax, m.tables[0].max, c.pages, c.rows)
		}
	}
}

// TestCustomSections: what survives, and that a name section whose counts lie
// does not.
func TestCustomSections(t *testing.T) {
	good := []byte{1, 4, 1, 0, 1, 'f'}
	for _, c := range []struct {
		section []byte
		name    string
		data    []byte
	}{
		{custom("name", good...), "name", good},
		{custom("name", append([]byte{0, 2, 1, 'm'}, good...)...), "name", good},
		{custom("name", 1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f), "", nil},
		{custom("name", 2, 5, 0xff, 0xff, 0xff, 0xff, 0x0f), "", nil},
		{custom("name", 1, 4, 1, 9, 1, 'f'), "", nil},
		{custom("name", 1, 90), "", nil},
		{custom("producers", 0), "producers", []byte{0}},
		{custom("blockengine.x", 8, 9), "blockengine.x", []byte{8, 9}},
		{custom(".debug_info", 1), "", nil},
		{custom("metadata.code.branch_hint", 1), "", nil},
	} {
		out := rewrite(t, append(withBody(), c.section...), DefaultLimits())
		m, err := decode(stripMeter(t, out), DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		name, data := "", []byte(nil)
		if last := m.sections[len(m.sections)-1]; last.id == secCustom {
			name, data = last.name, out[last.body.start+1+len(last.name):last.body.end]
		}
		if name != c.name || !bytes.Equal(data, c.data) {
			t.Errorf("custom section % x became %q % x", c.section, name, data)
		}
	}
}
