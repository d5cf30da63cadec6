package meter

// A tiny assembler for modules that no tool would write.

func build(sections ...[]byte) []byte {
	b := []byte(header)
	for _, s := range sections {
		b = append(b, s...)
	}
	return b
}

func section(id byte, contents []byte) []byte { return appendSection(nil, id, contents) }

func custom(name string, data ...byte) []byte {
	return section(secCustom, append(appendName(nil, name), data...))
}

func vector(items ...[]byte) []byte {
	b := appendU32(nil, uint32(len(items)))
	for _, i := range items {
		b = append(b, i...)
	}
	return b
}

func fn(params, results []ValueType) []byte {
	return appendType(nil, &FuncType{Params: params, Results: results})
}

// code is a function body without locals; the final end is added.
func code(ops ...byte) []byte {
	return appendBytes(nil, append(append([]byte{0}, ops...), opEnd))
}

// withBody is a module of one function ()→() with the given instructions, one
// memory, one table of 4, one mutable i64 global, one data and one element
// segment, and memory, function and global exported.
func withBody(ops ...byte) []byte {
	return build(
		section(secType, vector(fn(nil, nil))),
		section(secFunction, vector([]byte{0})),
		section(secTable, vector([]byte{byte(FuncRef), 0, 4})),
		section(secMemory, vector([]byte{0, 1})),
		section(secGlobal, vector([]byte{byte(I64), 1, opI64Const, 0, opEnd})),
		section(secExport, vector(
			appendExport(nil, "f", KindFunc, 0),
			appendExport(nil, "m", KindMemory, 0),
			appendExport(nil, "g", KindGlobal, 0))),
		section(secElement, vector([]byte{1, 0, 1, 0})),
		section(secDataCount, []byte{1}),
		section(secCode, vector(code(ops...))),
		section(secData, vector([]byte{1, 2, 7, 7})),
	)
}
