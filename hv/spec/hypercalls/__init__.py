"""The data of hypercalls: codes, control words, and the input and output of each call that is built.

TLFS "Hypercall Interface" and the page of each call. One file for each family, under the name of the file in
`hv/hypervisor/hypercalls/` that does the calls. A rep call's input is a header followed by a list of elements, and its
output a list of elements. Field names and order are the document's.
"""
