;; Fills memory that it has not.
(func $request (param $p i32)
  (memory.fill (i32.const 0x20000) (i32.const 7) (i32.const 0x7fffffff)))
