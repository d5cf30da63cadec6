;; Gives a record that ends beyond the buffer.
(func $request (param $p i32) (call $head (i64.const 11) (i64.const 0xfffffff8)) (call $put (i64.const 0)))
